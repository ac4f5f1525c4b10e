"""Writes the three files of a new search, with comments; filled in where a model and rows are given."""

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from hardware_profiles.profile import local
from hardware_profiles.store import write_atomic
from objectives.dataset_folder import image_cache
from objectives.task import load_task
from objectives.task_file import SPLITS
from search.checks import legal_space
from search.config import load_config
from search.fit import fitting_splits
from search.rows import Row, answers_of, read_rows, slice_fields, split
from spaces.axes.model import check_model_folder
from spaces.axes.quantization_rules import illegal
from spaces.errors import BadInput
from spaces.legality import row_widths
from spaces.plugins import available
from spaces.pruned import pruned_towers
from spaces.reader import load_space
from spaces.shape import read_shape

_TODO_MODEL = "TODO/model"
_TODO_ROWS = "TODO/{}.jsonl"
_FFN = 0.5
_ITEMS = 512


@dataclass(frozen=True, kw_only=True)
class Scaffold:
    """What was written, how many rows each split got, and what is left for the user to fill in."""

    files: tuple[Path, ...]
    splits: Mapping[str, int] = field(default_factory=dict)
    todo: tuple[str, ...] = ()


def scaffold(folder: Path, models: Sequence[Path], rows: Path | None) -> Scaffold:
    """Write task.yaml, space.yaml and search.yaml, and with ``rows`` a file for each split; all of them or nothing.

    Raises:
        BadInput: a file is there already, a model or a row is bad, or the folder cannot be written to.
    """
    for model in models:
        check_model_folder(model)
    dealt = split(read_rows(rows)) if rows else {}
    inside = {row.digest: row.image for part in dealt.values() for row in part if _in_cache(row)}
    contents: dict[str, str | Path] = {f"data/images/{digest}": image for digest, image in inside.items()}
    contents |= {f"data/{name}.jsonl": _lines(part, folder / "data") for name, part in dealt.items()}
    contents["task.yaml"] = _task(folder, dealt, models)
    contents["space.yaml"] = _space(folder, models)
    contents["search.yaml"] = _search(folder, len(dealt.get("search", ())))
    for name in contents:
        if (folder / name).exists():
            raise BadInput(f"{folder / name}: this file is there already and stays as it is; choose another folder.")
    _write(folder, contents, whole=bool(models and rows))
    todo = []
    if not models:
        todo.append(f"name your models at {_TODO_MODEL} in space.yaml.")
    if not rows:
        todo.append(f"name your rows at {_TODO_ROWS.format('*')} in task.yaml.")
    counts = {name: len(part) for name, part in dealt.items()}
    files = tuple(folder / name for name, content in contents.items() if isinstance(content, str))
    return Scaffold(files=files, splits=counts, todo=tuple(todo))


def _write(folder: Path, contents: Mapping[str, str | Path], *, whole: bool) -> None:
    """Write every file (images are copied) and read them back as a search would; none stays where one is refused."""
    made: list[Path] = []
    written: list[Path] = []
    try:
        for name, content in contents.items():
            path = folder / name
            missing = [parent for parent in (path.parent, *path.parent.parents) if not parent.exists()]
            path.parent.mkdir(parents=True, exist_ok=True)
            made += missing
            written.append(path)
            if isinstance(content, Path):
                shutil.copyfile(content, path)
            else:
                write_atomic(path, content)
        load_config(folder / "search.yaml")
        task = load_task(folder / "task.yaml")
        space = load_space(folder / "space.yaml")
        if whole:
            fitting_splits(legal_space(folder / "space.yaml"), task)
        assert space.count
    except BaseException as error:
        for path in written:
            path.unlink(missing_ok=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise BadInput(f"{folder}: nothing can be written there ({error.strerror or error}).") from None
        raise


def _in_cache(row: Row) -> bool:
    """Whether the image came inside a dataset: a cache may be cleared, so it is copied."""
    return image_cache() in row.image.parents


def _lines(rows: Sequence[Row], folder: Path) -> str:
    return "".join(
        json.dumps({**row.fields, "image": image}, ensure_ascii=False) + "\n"
        for row in rows
        for image in [f"images/{row.digest}" if _in_cache(row) else _from(folder, row.image)]
    )


def _from(folder: Path, target: Path) -> str:
    """The path of ``target`` as seen from ``folder``; the absolute one where they have nothing in common."""
    there, here = target.resolve(), folder.resolve()
    together = Path(os.path.commonpath([there, here]))
    return str(there) if together == Path(together.anchor) else os.path.relpath(there, here)


def _task(folder: Path, dealt: Mapping[str, Sequence[Row]], models: Sequence[Path]) -> str:
    rows = [row for part in dealt.values() for row in part]
    files = {name: f"data/{name}.jsonl" if dealt else _TODO_ROWS.format(name) for name in SPLITS}
    slices = ", ".join(json.dumps(name, ensure_ascii=False) for name in slice_fields(rows))
    comments = {
        "train": "tuning sees it",
        "calibration": "quantization and the check of every export see it",
        "search": "scores the trials",
        "holdout": "judges what you pick; keep it for the end",
    }
    splits = "\n".join(f"  {name}: {files[name]}  # {comment}" for name, comment in comments.items())
    return f"""\
# What the model is to do, and the rows that it is judged by.
schema: vlmfront.task/1
name: {json.dumps(_name(folder))}
metric: exact          # or contains, vqa_soft, anls, {{name: numeric, tolerance: 0.05}}
slices: [{slices}]{" " * max(1, 13 - len(slices))}# fields of a row; accuracy is given for each of their values
# One JSON object a line, at least:
# {{"id": "7", "image": "7.png", "question": "is the guard open ?", "answer": "open"}}
splits:
{splits}
max_new_tokens: {_longest(rows, models)}      # longest answer, in tokens
# hints:               # texts that the prompt may add, by the value of a field
#   field: kind
#   values: {{guard: "answer open or closed"}}
# exemplars: {{split: train, field: kind}}   # whence solved examples come, what they share with a question
# unknown: [unknown]   # answers that count as abstention
# costs:               # what wrong answers cost: rows are the truth, columns the answer
#   classes: [ok, defect]
#   matrix: [[0, 1], [10, 0]]
"""


def _longest(rows: Sequence[Row], models: Sequence[Path]) -> int:
    """Tokens of the longest answer and its end; of half its characters where no tokenizer is known."""
    texts = {answer for row in rows for answer in answers_of(row)}
    if not texts:
        return 16
    if not models:
        return min(4096, 2 + max(map(len, texts)) // 2)
    from tokenizers import Tokenizer

    words = [Tokenizer.from_file(str(model / "tokenizer.json")) for model in models]
    return min(4096, 2 + max(len(one.encode(text, add_special_tokens=False).ids) for one in words for text in texts))


def _space(folder: Path, models: Sequence[Path]) -> str:
    paths = [_from(folder, model) for model in models] or [_TODO_MODEL]
    groups = _groups(models)
    weights = "[fp16, int8, int4]" if groups else "[fp16, int8]"
    group = f"\n    group_size: {list(groups)}  # int4 weights that share a scale" if groups else ""
    precisions = "[f32, bf16]" if "bf16" in local().dtypes else "f32"
    listed = "\n".join(f"      - {json.dumps(path, ensure_ascii=False)}" for path in paths)
    more = {name: _more(name) for name in _USED}
    return f"""\
# What may vary. A scalar fixes a knob, a list varies it, {{choices: [...], when: {{...}}}} makes it conditional.
# What a comment lists can be added. `vlmfront space check` says whether it is legal, `estimate` what it weighs.
schema: vlmfront.space/1
axes:
  model:
    path:
{listed}{more["model"]}
  pruning:
    ffn: [0, {_FFN}]{more["pruning"]}
  tuning:
    method: [none, lora]
    steps: 100
    rank: 8{more["tuning"]}
  visual_tokens:
    keep: [1.0, 0.5]
    method: norm{more["visual_tokens"]}
  quantization:
    weights: {weights}{group}{more["quantization"]}
  prompt:
    template:
      - "{{question}}"{more["prompt"]}
  runtime:
    name: openvino
    threads: 1
    inference_precision: {precisions}{more["runtime"]}
"""


_USED = {
    "model": {"path"},
    "pruning": {"ffn"},
    "tuning": {"method", "steps", "rank"},
    "visual_tokens": {"keep", "method"},
    "quantization": {"weights", "group_size"},
    "prompt": {"template"},
    "runtime": {"name", "threads", "inference_precision"},
}


def _more(name: str) -> str:
    """Comment lines that name every other knob of an axis, with what it takes."""
    axis = next(axis for axis in available() if axis.name == name)
    lines = []
    for knob, domain in axis.domains.items():
        if knob in _USED[name]:
            continue
        takes = {
            "choice": ", ".join(map(str, domain.values)),
            "flag": "true, false",
            "text": "a text",
        }.get(domain.kind, f"{domain.low:g} to {domain.high:g}")
        lines.append(f"\n    # {knob}: {domain.help} ({takes})")
    return "".join(lines)


def _groups(models: Sequence[Path]) -> tuple[int, ...]:
    """The group sizes that fit every model, as it comes and pruned."""
    quantization = next(axis for axis in available() if axis.name == "quantization")
    choice = {name: domain.default for name, domain in quantization.domains.items()} | {"weights": "int4"}
    shapes = [pruned_towers(read_shape(model), {"ffn": share}) for model in models for share in (0.0, _FFN)]
    return tuple(
        int(size)
        for size in quantization.domains["group_size"].values
        if not any(illegal({**choice, "group_size": size}, {"weights": row_widths(one.language)}) for one in shapes)
    )


def _search(folder: Path, rows: int) -> str:
    items = f"{min(rows, _ITEMS)}" if rows else f"{_ITEMS}"
    return f"""\
# The search: what is optimised, within which limits, for how long.
schema: vlmfront.search/1
name: {json.dumps(_name(folder))}
task: task.yaml
space: space.yaml
device: local          # this machine; or a paired device (`vlmfront device list`), or devices: [pi, jetson]
objectives: [accuracy, latency_p50_ms]  # one to three; the front is made of them
limits: {{}}             # such as {{memory_peak_mb: {{max: 400}}, size_mb: {{max: 50}}}}
budget: 1h             # or a number of trials: 200trials
items: {items}             # rows of the search split that score a trial
seed: 0
workers: {min(2, local().threads)}             # trials that are built and scored at once, one core each
# retention: {{task: other/task.yaml, split: search, items: 256}}  # must not be forgotten: figure `forgetting`
# finalists: false      # leave the front's figures provisional: do not measure its members again at the end
# racing: false         # score every trial to the end, also where it can no longer reach the front
# sampler: tpe          # or nsga2, random, an installed plug-in, module:attr
# store: ~/.cache/vlmfront/store        # artifacts, shared by all runs
# store_limit: 50GB     # what was used least recently goes first; what a run or a front needs stays
"""


def _name(folder: Path) -> str:
    name = re.sub(r"[^\w .-]", "-", folder.resolve().name).lstrip(" .-")[:80]
    return name or "search"
