"""What the benchmarks share: bundles of the example's family, built through the stage tree into one store."""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from hardware_profiles.store import Store
from objectives.task import Task, load_task, read_splits, split_digest
from objectives.trial import StageCost
from search.bind import bind
from search.build import StageTree, build_stage
from search.exemplars import exemplar_pool, pool_digests
from spaces.axes import Value
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.sample import Sample
from spaces.space import Space

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "inspection"
FAMILY = tuple(EXAMPLE / "models" / f"inspection-{size}" for size in "nsml")


class Workbench:
    """Builds bundles from knob assignments in a folder of its own; stages are shared between them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task: Task = load_task(EXAMPLE / "task.yaml")
        self.splits: dict[str, tuple[Sample, ...]] = read_splits(
            self.task, ("train", "calibration", "search", "holdout")
        )
        self._digests = {split: split_digest(samples) for split, samples in self.splits.items()}
        self._store = Store(folder / "store")

    def space(self, values: Mapping[str, Value]) -> Space:
        """The space that holds just this one assignment; other knobs are at their defaults."""
        axes: dict[str, dict[str, Value]] = {}
        for name, value in values.items():
            axis, knob = name.split(".", 1)
            axes.setdefault(axis, {})[knob] = value
        path = self.folder / "space.yaml"
        path.write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
        return load_space(path, builtin())

    def bundle(self, name: str, values: Mapping[str, Value]) -> tuple[Path, Sequence[StageCost]]:
        """The bundle of one assignment, and what each of its stages cost."""
        space = self.space(values)
        candidate = space.candidate(values)
        pool = exemplar_pool(space, self.task, self.splits)
        digests = self._digests | pool_digests(pool)
        tree = StageTree(space, self.splits | pool, digests, self.task.max_new_tokens, seed=0)
        costs = []
        for stage in tree.plan(candidate):
            entry, reused = build_stage(stage, self._store.root)
            costs.append(StageCost(name=stage.axis, key=stage.key, seconds=entry.seconds, reused=reused))
        target = self.folder / "bundles" / name
        target.parent.mkdir(exist_ok=True)
        bind(target, candidate, entry, self._store, space, self.task, costs)
        return target, costs


@contextmanager
def workbench() -> Iterator[Workbench]:
    """A workbench in a temporary folder, gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Workbench(Path(folder))
