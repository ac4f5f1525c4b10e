"""What a recording is made of: the recipe in a YAML file, and everything that it names, read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from objectives.task import Task, load_task, split_digest
from search.build import StageTree
from search.checks import legal_space, models
from search.exemplars import exemplar_pool, pool_digests
from search.fit import fitting_splits
from spaces.errors import BadInput
from spaces.knobs import Knob
from spaces.reader import load_yaml, refuse_unknown
from spaces.sample import Sample
from spaces.space import Space, grid

SCHEMA = "vlmfront.record/1"
OBJECTIVES = {"accuracy": "max", "latency_ms": "min", "size_mb": "min"}
SPLITS = ("search", "holdout")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recording as its file describes it.

    Attributes:
        items: rows of each of the two splits that score a candidate.
        reference: objective -> the worst value that a user would accept.
        hints: knob -> ``ordered``, and which way each objective goes along the knob's values as they are listed.
    """

    path: Path
    task: Path
    space: Path
    items: int
    seed: int
    reference: Mapping[str, float]
    hints: Mapping[str, Mapping[str, bool | str]]


def load_recipe(path: Path) -> Recipe:
    """The recipe in a YAML file.

    Raises:
        BadInput: one sentence naming the file and the field.
    """
    document = load_yaml(path, SCHEMA)
    fields = {"task": str, "space": str, "items": int, "seed": int, "reference": dict, "hints": dict}
    refuse_unknown(document, {"schema", *fields}, str(path))
    for field, kind in fields.items():
        if type(document.get(field)) is not kind:
            raise BadInput(f"{path}: {field}: a {kind.__name__} is expected, not {document.get(field)!r}.")
    reference: Mapping[str, Any] = document["reference"]
    refuse_unknown(reference, OBJECTIVES, f"{path}: reference")
    for name in OBJECTIVES:
        if type(reference.get(name)) not in (int, float):
            raise BadInput(f"{path}: reference.{name}: the worst value that a user would accept is expected.")
    return Recipe(
        path=path,
        task=path.parent / document["task"],
        space=path.parent / document["space"],
        items=document["items"],
        seed=document["seed"],
        reference={name: float(value) for name, value in reference.items()},
        hints=document["hints"],
    )


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A recipe with its task, space and rows. ``judged``: the rows that score a candidate, by split."""

    recipe: Recipe
    task: Task
    space: Space
    judged: Mapping[str, Sequence[Sample]]
    splits: Mapping[str, Sequence[Sample]]
    digests: Mapping[str, str]

    def tree(self, seed: int) -> StageTree:
        """The stages of the space's candidates under a seed."""
        return StageTree(self.space, self.splits, self.digests, self.task.max_new_tokens, seed)

    @property
    def identity(self) -> dict[str, Any]:
        """What must stay the same for a recording to go on."""
        tree = self.tree(self.recipe.seed)
        return {
            "space": self.space.id,
            "data": dict(self.digests),
            "items": {name: [sample.id for sample in rows] for name, rows in self.judged.items()},
            "seed": self.recipe.seed,
            "max_new_tokens": self.task.max_new_tokens,
            "models": {model: tree.model_digest(self.space.folder / model) for model in models(self.space)},
        }

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs that vary."""
        return tuple(knob for knob in self.space.knobs if len(grid(knob)) > 1)


def set_up(recipe: Recipe) -> Setup:
    """Read and check all that a recipe names.

    Raises:
        BadInput: one sentence naming file, field or row.
    """
    task = load_task(recipe.task)
    space = legal_space(recipe.space)
    if space.size is None:
        raise BadInput(f"{recipe.space}: a space of finitely many candidates, not too many to list, is expected.")
    splits = fitting_splits(space, task, recipe.items)
    for name in SPLITS:
        if len(splits.get(name, ())) < recipe.items:
            raise BadInput(f"{recipe.path}: items: the {name} split has {len(splits.get(name, ()))} rows.")
    refuse_unknown(recipe.hints, {knob.name for knob in space.knobs}, f"{recipe.path}: hints")
    pool = exemplar_pool(space, task, splits)
    return Setup(
        recipe=recipe,
        task=task,
        space=space,
        judged={name: splits[name][: recipe.items] for name in SPLITS},
        splits={**splits, **pool},
        digests={name: split_digest(rows) for name, rows in splits.items()} | pool_digests(pool),
    )
