"""The last stage: an artifact becomes a bundle, with prompt and execution settings bound into its manifest."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from hardware_profiles.bundle import Execution, seal, served
from hardware_profiles.store import Entry, Gone, Store
from objectives.task import Task
from objectives.trial import StageCost
from spaces.axes import Choice
from spaces.axes.prompt import bound_prompt
from spaces.candidate import Candidate
from spaces.serving import SERVER
from spaces.space import Space


def bind(
    target: Path,
    candidate: Candidate,
    entry: Entry,
    store: Store,
    space: Space,
    task: Task,
    stages: Sequence[StageCost],
) -> None:
    """Lay out the bundle of a candidate at ``target``, in place of what may be left there from an earlier try.

    Raises:
        Gone: a file is no longer what the store took in; it was removed there.

    The files are hard links into the store where the file system allows it, so a bundle costs next to nothing.
    """
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    store.checkout(entry, draft)
    choice = {axis.name: space.choice(candidate, axis) for axis in space.axes}
    runtime = choice["runtime"]
    bundle = seal(
        draft,
        runtime=str(runtime["name"]),
        prompt=bound_prompt(choice["prompt"], task.hint_field, task.hints, task.exemplar_field),
        max_new_tokens=task.max_new_tokens,
        execution=_execution(runtime),
        candidate=dict(candidate.values),
        provenance={"stages": [{"name": stage.name, "key": stage.key} for stage in stages]},
    )
    for name, file in bundle.manifest.files.items():
        if file.sha256 != entry.files[name]:
            store.discard(entry.key, distrust=True)
            raise Gone(f"the store's copy of {name} was damaged")
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)


def _execution(runtime: Choice) -> Execution:
    """What the manifest pins; of a server its name alone."""
    if runtime["name"] == SERVER:
        return served(str(runtime["server"]))
    return Execution(
        device=str(runtime["device"]),
        threads=int(runtime["threads"]),
        inference_precision=str(runtime["inference_precision"]),
        kv_cache_precision=str(runtime["kv_cache_precision"]),
    )
