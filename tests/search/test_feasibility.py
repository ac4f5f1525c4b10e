from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hardware_profiles.profile import Processor, built_in, local
from hardware_profiles.roofline import Anchor, Calibration, calibrate
from hardware_profiles.wire import Preflight
from objectives.trial import Figure, Trial
from search.feasibility import PREDICTED, fallbacks, in_bytes, predicted, refused, unfit
from search.prediction import calibration_of, predicted_device
from spaces.candidate import Candidate
from spaces.errors import BadInput
from spaces.estimate import estimate
from spaces.plugins import builtin
from spaces.reader import load_space
from spaces.shape import read_shape
from spaces.space import Space
from spaces.work import work

Knobs = Mapping[str, Mapping[str, Any]]


def only(checkpoint: Path, folder: Path, knobs: Knobs) -> tuple[Space, Candidate]:
    axes = {"model": {"path": str(checkpoint)}, **knobs}
    (folder / "space.yaml").write_text(yaml.safe_dump({"schema": "vlmfront.space/1", "axes": axes}))
    space = load_space(folder / "space.yaml", builtin())
    return space, next(iter(space.candidates()))


def calibrated(checkpoint: Path, folder: Path, latency_ms: float) -> Calibration:
    """Of anchors around this latency: the candidate itself with more and more tokens of text."""
    space, candidate = only(checkpoint, folder, {})
    choices = {axis.name: space.choice(candidate, axis) for axis in space.axes}
    device = fast()
    works = [work(read_shape(checkpoint), choices, text_tokens=16 * (1 + row)) for row in range(12)]
    noise = np.random.default_rng(0).uniform(0.98, 1.02, 12)
    return calibrate(
        [
            Anchor(work=one, latency_ms=latency_ms * (1 + 0.05 * row) * noise[row], memory_bytes=1.5e8)
            for row, one in enumerate(works)
        ],
        device,
        "openvino",
    )


def fast(**changed: Any) -> Any:
    cpu = Processor(bandwidth=1e10, peak={"f32": 1e11}, runtimes=("openvino", "torch"))
    return local().model_copy(update={"processors": {"cpu": cpu}, "dtypes": ("f32",), "name": "board", **changed})


@pytest.mark.parametrize("knobs", [{}, {"quantization": {"weights": "int8"}}, {"pruning": {"ffn": 0.5}}])
def test_the_least_memory_must_be_there(knobs: Knobs, tiny_checkpoint: Path, tmp_path: Path) -> None:
    space, candidate = only(tiny_checkpoint, tmp_path, knobs)
    choices = {axis.name: space.choice(candidate, axis) for axis in space.axes}
    least = estimate(read_shape(tiny_checkpoint), choices).memory_bytes
    assert unfit(candidate, space, fast(memory_bytes=least)) is None
    reason = unfit(candidate, space, fast(memory_bytes=least - 1))
    assert reason is not None
    assert reason.startswith("the weights and the cache of one image alone need 0.")
    found = refused(candidate, space, fast(memory_bytes=least - 1), {})
    assert found is not None
    assert (found.kind, found.reason) == ("memory", reason)
    assert unfit(candidate, space, fast(memory_bytes=0)) is None, "memory that is not known refuses nothing"


def test_the_accelerators_own_memory_counts_for_what_runs_on_it(tiny_checkpoint: Path, tmp_path: Path) -> None:
    space, candidate = only(tiny_checkpoint, tmp_path, {"runtime": {"name": "torch", "device": "cuda"}})
    gpu = Processor(memory_bytes=1000, runtimes=("torch",))
    assert unfit(candidate, space, fast(processors={"gpu": gpu})) is not None
    space, candidate = only(tiny_checkpoint, tmp_path, {"runtime": {"name": "torch"}})
    assert unfit(candidate, space, fast(processors={"gpu": gpu})) is None, "pinned to the CPU"


def test_a_precision_that_the_device_does_not_compute_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    space, candidate = only(tiny_checkpoint, tmp_path, {"runtime": {"inference_precision": "bf16"}})
    found = refused(candidate, space, fast(), {})
    assert found is not None
    assert (found.kind, found.reason) == ("dtype", "board computes f32 natively, and bf16 is pinned.")
    assert refused(candidate, space, fast(dtypes=("f32", "bf16")), {}) is None
    assert refused(candidate, space, fast(dtypes=()), {}) is None


def test_latency_refuses_only_what_the_calibrated_low_end_rules_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    space, candidate = only(tiny_checkpoint, tmp_path, {})
    calibration = calibrated(tiny_checkpoint, tmp_path, 20.0)
    known = predicted(candidate, space, fast(), calibration)
    assert known.latency_ms
    assert known.calibrated
    assert known.latency_ms.low < 20 < known.latency_ms.high

    def asked(most: float, used: Calibration | None = calibration) -> str | None:
        found = refused(candidate, space, fast(), {"latency_p50_ms": {"max": most}}, used)
        return found.reason if found else None

    assert asked(known.latency_ms.low + 0.01) is None
    assert asked(known.latency_ms.low - 0.01) == (
        f"latency_p50_ms is predicted to be at least {known.latency_ms.low:.4g} on board "
        f"(from 12 measurements there), and its limit is max {known.latency_ms.low - 0.01:g}"
    )
    assert asked(1e-6, None) is None, "what is not calibrated refuses nothing"
    assert refused(candidate, space, fast(), {"accuracy": {"min": 1.0}}, calibration) is None
    assert PREDICTED == "refused by prediction"


def test_what_leaves_the_accelerator_is_labelled() -> None:
    assert fallbacks(Preflight(device="CPU", operations=7, fallback={})) == ()
    left = Preflight(device="HETERO:GPU,CPU", operations=7, fallback={"g: MatMul a": "no", "g: MatMul b": "no"})
    assert fallbacks(left) == ("2 of 7 operations leave HETERO:GPU,CPU (g: MatMul a and 1 more)",)
    one = Preflight(device="NPU", operations=7, fallback={"g: TopK t": "no"})
    assert fallbacks(one) == ("1 of 7 operations leave NPU (g: TopK t)",)


def test_without_a_device_figures_are_predicted_and_say_so(tiny_checkpoint: Path, tmp_path: Path) -> None:
    space, candidate = only(tiny_checkpoint, tmp_path, {"runtime": {"name": "torch", "device": "cuda"}})
    device = predicted_device("jetson-orin-nano-8gb", ("torch",))
    assert device.label == "predicted from the profile jetson-orin-nano-8gb, not measured"
    figures = device.figures(candidate, space)
    assert set(figures) == {"latency_p50_ms", "memory_peak_mb"}
    for figure in figures.values():
        assert figure.n == 0
        assert figure.value is not None
        assert figure.low is not None
        assert figure.high is not None
        assert 0 < figure.low < figure.value < figure.high
    choices = {axis.name: space.choice(candidate, axis) for axis in space.axes}
    least = estimate(read_shape(tiny_checkpoint), choices).memory_bytes
    assert figures["memory_peak_mb"].low == pytest.approx(least / 1e6)
    space, candidate = only(tiny_checkpoint, tmp_path, {"runtime": {"name": "torch"}})
    with pytest.raises(BadInput, match=r"its cpu, which torch runs on; set runtime\.device: cuda"):
        device.figures(candidate, space)
    with pytest.raises(BadInput, match="its cpu, which torch runs on"):
        predicted_device("jetson-orin-nano-8gb", ("torch",), devices=("cpu", "cuda"))


def test_a_runs_own_trials_calibrate_its_device(tiny_checkpoint: Path, tmp_path: Path) -> None:
    space, _ = only(tiny_checkpoint, tmp_path, {"visual_tokens": {"keep": [0.25, 0.5, 0.75, 1.0]}})
    candidates = list(space.candidates())

    def trial(number: int, deployed: int, **changed: Figure) -> Trial:
        figures = {"latency_p50_ms": Figure(value=20.0 + number % 4, n=24), "memory_peak_mb": Figure(value=150.0, n=1)}
        candidate = candidates[number % 4]
        return Trial(
            number=number,
            candidate_id=candidate.id,
            candidate=candidate.values,
            state="complete",
            deployed=f"bundle {deployed}",
            figures=figures | changed,
        )

    measured = [trial(number, number) for number in range(12)]
    found = calibration_of(measured, space, fast(), "openvino")
    assert found is not None
    assert found.anchors == 12
    known = predicted(candidates[0], space, fast(), found).latency_ms
    assert known
    assert known.low < 20.0 < known.high < 40
    predictions = [trial(number, number, latency_p50_ms=Figure(value=5.0)) for number in range(12)]
    assert calibration_of(predictions, space, fast(), "openvino") is None, "a prediction is no anchor"
    shared = [trial(number, number % 4) for number in range(12)]
    assert calibration_of(shared, space, fast(), "openvino") is None, "four measurements are four anchors"
    assert calibration_of(measured, space, fast(), "torch") is None
    other, _ = only(tiny_checkpoint, tmp_path, {"visual_tokens": {"keep": 0.1}})
    assert calibration_of(measured, other, fast(), "openvino") is None


def test_a_profile_without_figures_predicts_nothing() -> None:
    with pytest.raises(BadInput, match="lacks the bandwidth or the peak of its cpu, which openvino runs on"):
        predicted_device("raspberry-pi-4-4gb", ("openvino",))
    with pytest.raises(
        BadInput, match=r"runs on; pair the device and measure, or take .*: raspberry-pi-5-8gb, or a file"
    ):
        predicted_device("jetson-orin-nano-8gb", ("openvino",))
    with pytest.raises(BadInput, match=r"of its cpu, which torch runs on; set runtime\.device: cuda, pair the device"):
        predicted_device("pc-nvidia-l4", ("torch",), devices=("cpu",))
    with pytest.raises(BadInput, match="of its cpu, which torch runs on; pair the device"):  # of its GPU as well
        predicted_device("jetson-orin-nx-16gb", ("torch",), devices=("cpu",))
    with pytest.raises(BadInput, match="there is no profile 'pi'"):
        predicted_device("pi", ("openvino",))
    assert predicted_device("raspberry-pi-5-8gb", ("openvino",)).profile.threads == 4


@pytest.mark.parametrize(
    ("count", "words"), [(999, "0.00 MB"), (12_340_000, "12.3 MB"), (456e6, "456 MB"), (4.26e9, "4.26 GB")]
)
def test_bytes_in_words(count: float, words: str) -> None:
    assert in_bytes(count) == words


def test_profiles_that_come_along_are_of_a_device() -> None:
    found = {profile.name: profile for profile in built_in()}
    assert {"raspberry-pi-5-8gb", "jetson-orin-nano-8gb"} <= set(found)
    for profile in found.values():
        assert (profile.room("torch") or 0) >= 1 << 30
    assert local().name not in found
