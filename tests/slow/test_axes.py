"""Every method of every axis on the example's largest model, through the stage tree and the deployed runtime.

Writes docs/axes.md: what each method does to accuracy (paired with the unmodified model over the search split), to
latency (its p50 against the unmodified bundle's, measured just before) and to size, and which tests check its numbers.
"""

import datetime
import importlib
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.agent.measure import measure
from hardware_profiles.agent.supervisor import run_job
from hardware_profiles.bundle import open_bundle
from hardware_profiles.messages import Answered, Job
from objectives.accuracy import paired_difference
from objectives.trial import Figure
from search.measuring import timed_items
from search.scoring import requests, score
from spaces.axes import Value

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
workbench: Any = importlib.import_module("workbench")

AGAINST = {
    "awq": "test_quantization_numbers.py: AWQ scales and weights in NumPy",
    "scale_estimation": "test_quantization_numbers.py: no group worse than round-to-nearest",
    "awq_scale_estimation": "test_quantization_numbers.py: AWQ scales in NumPy",
    "gptq": "test_quantization_numbers.py: less output error than round-to-nearest",
}
MODEL: dict[str, Value] = {"model.path": str(workbench.FAMILY[-1])}
HEAD = """# What every method of every axis does

Written by `tests/slow/test_axes.py`, {date}, on commit {commit}: the example's largest model (inspection-l),
unmodified {plain}, one thread, f32. Each line changes what it names and leaves all other knobs at their
defaults. Accuracy: exact match on the 512 rows of the search split, half of them in wordings that the model never saw,
before and after; points with the 95 % interval of the paired difference. Latency and size: against the unmodified
bundle, timed in a fresh process right before; two measurements of one bundle differ by up to 7 % here, and by far more
where other work ran meanwhile. References are
the tests that compare the method's numbers with an independent computation.

"""
INT4: dict[str, Value] = {"quantization.weights": "int4"}
LORA: dict[str, Value] = {"tuning.method": "lora", "tuning.steps": 60}
HALF_FFN: dict[str, Value] = {"pruning.ffn": 0.5}


@dataclass(frozen=True)
class Row:
    """One line of the page: the axis, the method in words, its knobs, and the test file with its reference."""

    axis: str
    method: str
    knobs: dict[str, Value]
    reference: str = ""


def rows() -> Iterator[Row]:
    """All lines, in stage order."""
    sizes = "test_resolution.py: bicubic in NumPy"
    for side in (48, 96):
        yield Row("model", f"image_size {side} (trained at 64)", {"model.image_size": side}, sizes)
    masks = "test_pruning_importance.py: magnitude, Wanda and block influence in NumPy"
    for knob, share in (
        ("ffn", 0.25),
        ("ffn", 0.5),
        ("heads", 0.5),
        ("layers", 0.25),
        ("vision_ffn", 0.25),
        ("vision_heads", 0.25),
        ("vision_layers", 0.34),
    ):
        for importance in ("weights", "activations"):
            knobs: dict[str, Value] = {f"pruning.{knob}": share, "pruning.importance": importance}
            yield Row("pruning", f"{knob} {share:g}, {importance}", knobs, masks)
    yield Row("pruning, tuning", "ffn 0.5, then 60 steps of LoRA", HALF_FFN | LORA, masks)
    yield Row("pruning, tuning", "layers 0.25, then 60 steps of LoRA", {"pruning.layers": 0.25, **LORA}, masks)
    for method in ("lora", "dora", "full", "projector"):
        knobs = {"tuning.method": method, "tuning.steps": 60}
        yield Row("tuning", f"{method}, 60 steps", knobs, "test_tuning.py")
    for method in ("norm", "random", "uniform", "attention", "merge"):
        knobs = {"visual_tokens.keep": 0.5, "visual_tokens.method": method}
        yield Row("visual_tokens", f"half, {method}", knobs, "test_visual_tokens*.py: NumPy, torch on the uncut graph")
    rtn = "test_quantization_numbers.py: round-to-nearest in NumPy"
    for weights in ("int8", "int4"):
        for mode in ("sym", "asym"):
            knobs = {"quantization.weights": weights, "quantization.mode": mode}
            yield Row("quantization", f"{weights} {mode}", knobs, rtn)
    for group in (32, 128):
        yield Row("quantization", f"int4 sym, groups of {group}", INT4 | {"quantization.group_size": group}, rtn)
    for method in ("awq", "scale_estimation", "awq_scale_estimation", "gptq"):
        checked = AGAINST[method]
        yield Row("quantization", f"int4, {method}", INT4 | {"quantization.method": method}, checked)
    yield Row("quantization", "half of the weights int4, half int8", INT4 | {"quantization.ratio": 0.5}, rtn)
    for part in ("vision", "projector"):
        for weights in ("int8", "int4"):
            yield Row("quantization", f"{part} {weights}", {f"quantization.{part}": weights}, rtn)
    everything = {**INT4, "quantization.vision": "int8", "quantization.projector": "int8"}
    yield Row("quantization", "int4, vision and projector int8", everything, rtn)
    inspector = "you are a factory inspector . {question}"
    yield Row("prompt", "instruction", {"prompt.template": inspector}, "")
    yield Row("prompt", "hint", {"prompt.hint": True}, "")
    for choice in ("fixed", "random", "nearest"):
        knobs = {"prompt.exemplars": 2, "prompt.exemplar_choice": choice}
        checked = "test_exemplars.py: neighbours by brute force" if choice == "nearest" else ""
        yield Row("prompt", f"2 exemplars, {choice}", knobs, checked)
    knobs = {"prompt.exemplars": 2, "prompt.exemplar_choice": "nearest", "prompt.exemplar_order": "reversed"}
    yield Row("prompt", "2 exemplars, nearest first", knobs, "")
    yield Row("runtime", "bf16 arithmetic", {"runtime.inference_precision": "bf16"}, "")
    yield Row("runtime", "KV cache u8", {"runtime.kv_cache_precision": "u8"}, "")
    yield Row("runtime", "2 threads", {"runtime.threads": 2}, "")
    yield Row("runtime", "torch", {"runtime.name": "torch"}, "")


class Bench:
    """Scores and times bundles; the unmodified one is timed again before each other one."""

    def __init__(self, bench: Any) -> None:
        self._bench = bench
        self.items = bench.splits["search"]
        self.plain = bench.bundle("unmodified", MODEL)[0]
        self.plain_scores = self.scores(self.plain)

    def scores(self, bundle: Path) -> dict[str, float]:
        result = run_job(Job(kind="answer", bundle=str(bundle), requests=requests(self.items)))
        assert isinstance(result, Answered)
        return {answer.id: answer.score for answer in score(result, self.items, self._bench.task)}

    @staticmethod
    def size_mb(bundle: Path) -> float:
        return open_bundle(bundle).size_bytes / 1e6

    def p50_ms(self, bundle: Path) -> float:
        job = Job(kind="measure", bundle=str(bundle), requests=requests(timed_items(self.items)), min_answers=48)
        return statistics.median(timing.e2e_ms for timing in measure(job).timings)

    def line(self, number: int, row: Row) -> tuple[str, Figure, float, float]:
        bundle = self._bench.bundle(f"row-{number}", MODEL | row.knobs)[0]
        scores = self.scores(bundle)
        change = paired_difference(scores, self.plain_scores)
        before = statistics.mean(self.plain_scores.values())
        after = statistics.mean(scores.values())
        ratio = self.p50_ms(bundle) / self.p50_ms(self.plain) - 1
        size = self.size_mb(bundle) / self.size_mb(self.plain) - 1
        assert change.value is not None
        assert change.low is not None
        assert change.high is not None
        points = f"{100 * change.value:+.1f} ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
        cells = [row.axis, row.method, f"{before:.3f}", f"{after:.3f}", points, f"{ratio:+.0%}", f"{size:+.0%}"]
        shown = [cell.replace("+0%", "0%").replace("-0%", "0%").replace("-", "−") for cell in cells]
        return f"| {' | '.join([*shown, row.reference])} |", change, ratio, size


@pytest.mark.slow
def test_every_method_of_every_axis_on_the_largest_model() -> None:
    with workbench.workbench() as folder:
        bench = Bench(folder)
        found = {row.method: (row, *bench.line(number, row)) for number, row in enumerate(rows())}
        plain = f"{bench.size_mb(bench.plain):.1f} MB and {bench.p50_ms(bench.plain):.1f} ms (p50)"
    write([line for _, line, *_ in found.values()], plain)

    def smaller(method: str) -> bool:
        return found[method][4] < -0.01

    assert all(smaller(row.method) for row, *_ in found.values() if row.axis in ("pruning", "quantization"))
    gain = found["ffn 0.5, then 60 steps of LoRA"][2].value or 0.0
    assert gain > (found["ffn 0.5, weights"][2].value or 0.0)
    assert (found["int4, awq_scale_estimation"][2].value or 0.0) > -0.1
    assert (found["2 exemplars, fixed"][2].low or 0.0) > 0
    assert all((found[f"half, {m}"][3]) < 0 for m in ("norm", "random", "uniform", "merge"))


def write(lines: list[str], plain: str) -> None:
    """docs/axes.md with these lines."""
    head = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False
    ).stdout.strip()
    text = [
        *HEAD.format(date=datetime.date.today().isoformat(), commit=head, plain=plain).splitlines(),
        "| Axis | Method | Before | After | Points | Latency | Size | Reference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *lines,
        "",
    ]
    (ROOT / "docs" / "axes.md").write_text("\n".join(text), encoding="utf-8")
