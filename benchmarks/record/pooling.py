"""Which candidates are equally fast by construction, so that their latency is measured once and pooled.

Two candidates are in one pool when

- their deployed graphs are the same: the graphs of their bundles (``.xml``: operations, shapes and types, but not the
  values of the weights, on which the time of dense arithmetic does not hang) and the pinned execution settings. So
  tunings of one model share a pool, while pruning, visual tokens, quantization and precision tell candidates apart;
- they show equally many exemplars;
- their questions are equally long: rendered with template and hint, at most ``TEXT_TOKENS`` tokens apart on average.
  Six more tokens made the largest model of the inspection family 8 to 10 % slower at f32, so two make less than 4 %;
- their answers are equally long: at most ``ANSWER_TOKENS`` tokens apart on average over all scored items.

Along both lengths a pool begins at its shortest member and ends before the first that is longer by more than that.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from hardware_profiles.bundle import Manifest, open_bundle
from spaces.canonical import digest
from spaces.prompting import render
from spaces.sample import Sample

TEXT_TOKENS = 2.0
ANSWER_TOKENS = 0.25


@dataclass(frozen=True, kw_only=True)
class Member:
    """One candidate, by what its time hangs on. Lengths are in tokens."""

    candidate: str
    graph: str
    text: float
    answer: float


def member(row: dict[str, Any], bundle: Path, items: Sequence[Sample]) -> Member:
    """A recorded row with its bundle; ``items`` are those that a measurement asks."""
    manifest = open_bundle(bundle, verify=False).manifest
    tokenizer = manifest.files["tokenizer.json"].sha256
    texts = tuple(render(manifest.prompt, item.question, item.fields) for item in items)
    return Member(
        candidate=row["candidate"],
        graph=graph(manifest),
        text=_length(tokenizer, bundle / "tokenizer.json", texts),
        answer=float(row["tokens"]),
    )


def graph(manifest: Manifest) -> str:
    """What is the same for bundles that compute the same operations on the same shapes, whatever their weights."""
    graphs = {name: file.sha256 for name, file in manifest.files.items() if name.endswith(".xml")}
    return digest([manifest.runtime, graphs, asdict(manifest.execution), manifest.prompt.exemplars])


def pools(members: Iterable[Member]) -> list[tuple[str, ...]]:
    """The candidates of each pool, in the order in which they are given."""
    same: defaultdict[str, list[Member]] = defaultdict(list)
    for one in members:
        same[one.graph].append(one)
    return [
        tuple(one.candidate for one in pool)
        for alike in same.values()
        for texts in _runs(alike, [one.text for one in alike], TEXT_TOKENS)
        for pool in _runs(texts, [one.answer for one in texts], ANSWER_TOKENS)
    ]


def _runs(members: Sequence[Member], lengths: Sequence[float], apart: float) -> list[list[Member]]:
    """Members in runs of about equal length, each run in the given order."""
    starts: list[float] = []
    for length in sorted(lengths):
        if not starts or length > starts[-1] + apart:
            starts.append(length)
    runs: list[list[Member]] = [[] for _ in starts]
    for one, length in zip(members, lengths, strict=True):
        runs[max(place for place, start in enumerate(starts) if start <= length)].append(one)
    return runs


@cache
def _length(tokenizer: str, path: Path, texts: tuple[str, ...]) -> float:  # noqa: ARG001 - part of the cache's key
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(path))
    return mean(len(known.encode(text, add_special_tokens=False).ids) for text in texts)
