"""A search of several devices, each a double: fronts, losses, faults, disagreement, finalists, going on."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from hardware_profiles.messages import JobFailed, Measurement, Request
from hardware_profiles.wire import Preflight
from objectives.devices import seen_from
from objectives.trial import Figure, Trial
from reports.front import front_of
from search import late, refusing
from search.feasibility import PREDICTED, Refusal
from search.fleet import AllLost
from search.measuring import timed_items
from search.references import References
from search.study import NAME
from spaces.candidate import Candidate
from tests.bench import ITEMS, KEPT, LATENCY, RIGHT, TWO, Bench, N, key_of, said
from tests.double import Double

EACH = ("accuracy", "latency_p50_ms@pi", "latency_p50_ms@jetson")
AWAY = JobFailed("DEVICE_LOST", "nothing was heard of it for 60 s")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def key(trial: Trial) -> tuple[str, str]:
    return str(trial.candidate["model.path"]), str(trial.candidate["quantization.weights"])


def by_key(bench: Bench) -> dict[tuple[str, str], Trial]:
    return {key(trial): trial for trial in bench.run.read_trials()}


def members(bench: Bench, device: str) -> set[tuple[str, str]]:
    return {key(trial) for trial in front_of(bench.run, bench.run.read_trials(), device).trials}


def brute(values: dict[tuple[str, str], tuple[float, float]]) -> set[tuple[str, str]]:
    """The keys of which no other is at least as accurate and as fast: what differs here differs beyond any noise."""
    return {
        one
        for one, (accuracy, ms) in values.items()
        if not any(a >= accuracy and m <= ms for other, (a, m) in values.items() if other != one)
    }


def measured(device: Double) -> list[str]:
    """What a device measured for trials: not the references, which are measured again and again."""
    return [bundle.name for kind, bundle in device.calls if kind == "provisional"]


def told(bench: Bench) -> dict[int, str]:
    """The state in which the study has each of the run's trials."""
    storage = JournalStorage(JournalFileBackend(str(bench.run.journal)))
    study = optuna.load_study(study_name=NAME, storage=storage)
    return {trial.number: study.trials[trial.number].state.name for trial in bench.run.read_trials()}


def all_told(bench: Bench) -> bool:
    return list(told(bench).values()) == ["COMPLETE"] * 4


def test_each_device_has_its_own_front(bench: Bench) -> None:
    pi, jetson = bench.two()
    bench.search(EACH).search()
    for device in (pi, jetson):
        values = {one: (RIGHT[one] / N, TWO[device.name][one]) for one in RIGHT}
        assert members(bench, device.name) == brute(values)
        for one, trial in by_key(bench).items():
            figure = seen_from(trial, device.name).figures["latency_p50_ms"]
            assert figure.value == pytest.approx(values[one][1])
            assert trial.figures[f"latency_p50_ms@{device.name}"] == figure
            assert "latency_p50_ms" not in trial.figures
    assert members(bench, "pi") != members(bench, "jetson")
    assert all_told(bench)


def test_a_lost_device_is_measured_later_and_nothing_twice(bench: Bench) -> None:
    pi, jetson = bench.two()
    away = {"now": False}

    def fails(kind: str, _: Path) -> None:
        if away["now"]:
            raise AWAY

    def on_trial(_: Trial) -> None:
        away["now"] = True

    pi.fails = fails
    bench.search(EACH, on_trial=on_trial).search()
    trials = bench.run.read_trials()
    waiting = [trial for trial in trials if trial.waits_for == ("pi",)]
    assert waiting == list(trials[1:])
    for trial in waiting:
        [label] = [one for one in trial.devices["pi"].labels if "not measured on pi" in one]
        assert "nothing was heard of it for 60 s" in label
        assert "latency_p50_ms@jetson" in trial.figures
        assert told(bench)[trial.number] == "RUNNING"
    away["now"] = False
    bench.search(EACH).search()
    assert not [trial for trial in bench.run.read_trials() if trial.waits_for]
    assert all_told(bench)
    for device in (pi, jetson):
        references = bench.run.read_references(device.name)
        times = measured(device)
        assert set(times) == {str(trial.number) for trial in bench.run.read_trials()}
        assert len(times) == 4 + len(references)
        for trial in bench.run.read_trials():
            value = trial.figures[f"latency_p50_ms@{device.name}"].value
            assert value == pytest.approx(device.ms(bench.run.bundle(trial.number)))


def test_a_lost_device_is_looked_for_once_more_at_the_end(bench: Bench) -> None:
    pi, _ = bench.two()
    finished: list[Trial] = []

    def fails(kind: str, _: Path) -> None:
        if (kind == "provisional" and not finished) or (kind == "open" and 0 < len(finished) < 3):
            raise AWAY

    pi.fails = fails
    bench.search(EACH, budget=3, on_trial=finished.append).search()
    trials = bench.run.read_trials()
    assert [trial.waits_for for trial in finished] == [("pi",)] * 3
    assert [trial.devices["pi"].state for trial in trials] == ["measured"] * 3
    assert [event.event for event in bench.events if event.device == "pi"] == ["opened", "lost", "back"]


def test_a_lost_device_that_comes_back_is_caught_up_with_in_the_same_search(bench: Bench) -> None:
    pi, _ = bench.two()
    failures = itertools.count()

    def fails(kind: str, _: Path) -> None:
        if kind == "provisional" and next(failures) == 0:
            raise AWAY

    pi.fails = fails
    bench.search(EACH).search()
    assert all_told(bench)
    assert not [trial for trial in bench.run.read_trials() if trial.waits_for]
    assert [event.event for event in bench.events if event.device == "pi"] == ["opened", "lost", "back"]


def late_answers(bench: Bench, device: Double) -> None:
    """Have a device away for its first measurement, and answer otherwise than the host from then on."""
    failures = itertools.count()

    def fails(kind: str, _: Path) -> None:
        if kind == "provisional" and next(failures) == 0:
            raise AWAY

    device.fails = fails
    device.say = lambda bundle, request: "no" if request.id.endswith("0") else said(bundle, request)


def test_what_a_device_cannot_answer_late_goes_on_for_the_other(bench: Bench) -> None:
    pi, _ = bench.two()
    late_answers(bench, pi)
    before = pi.fails

    def fails(kind: str, bundle: Path) -> None:
        before(kind, bundle)
        if kind == "answer":
            raise JobFailed("OOM", "it did not fit")

    pi.fails = fails
    bench.search(EACH).search()
    for trial in bench.run.read_trials():
        assert (trial.state, trial.devices["pi"].state) == ("complete", "infeasible")
        assert trial.devices["pi"].reason == "OOM: it did not fit"
    assert "RUNNING" not in told(bench).values()


def test_late_answers_are_held_against_the_unmodified_model(bench: Bench) -> None:
    pi, _ = bench.two()
    late_answers(bench, pi)
    bench.search(EACH, retention=True).search()
    first = bench.run.read_trials()[0]
    assert first.devices["pi"].answered
    figures = seen_from(first, "pi").figures
    model, weights = key(first)
    answers = [said_late(KEPT, (model, weights), number) for number in range(24)]
    assert figures["retention"].value == sum(answers) / 24
    assert figures["forgetting"].value == pytest.approx((KEPT[model, "fp16"] - sum(answers)) / 24)
    same = [said_late(RIGHT, (model, weights), n) for n in range(N)]
    assert figures["accuracy"].value == sum(same) / N
    assert figures["agreement"].value != first.figures["agreement"].value


def said_late(right: dict[tuple[str, str], int], one: tuple[str, str], number: int) -> bool:
    """Whether the device of :func:`late_answers` is right about an item."""
    return number < right[one] and number % 10 != 0


def test_the_last_device_lost_ends_the_search_and_a_resume_loses_nothing(bench: Bench) -> None:
    away = {"after": 2}
    device = bench.devices["local"]

    def fails(kind: str, _: Path) -> None:
        if kind == "provisional" and len(set(measured(device))) >= away["after"]:
            raise AWAY

    device.fails = fails
    with pytest.raises(AllLost, match=r"the device local is out of reach .nothing was heard"):
        bench.search().search()
    before = bench.run.read_trials()
    assert [trial.state for trial in before] == ["complete"] * len(before)
    assert len(before) >= 1
    away["after"] = 9
    bench.search(budget=len(before) + 2).search()
    after = bench.run.read_trials()
    assert after[: len(before)] == before
    assert len({trial.candidate_id for trial in after}) == len(after) == len(before) + 2


@pytest.mark.parametrize("fault", ["OOM", "CRASH", "TIMEOUT"])
def test_what_cannot_run_on_one_device_goes_on_for_the_other(bench: Bench, fault: Any) -> None:
    pi, _ = bench.two()

    def fails(kind: str, bundle: Path) -> None:
        if kind == "provisional" and key_of(bundle) == ("b", "fp16"):
            raise JobFailed(fault, "it did not fit")

    pi.fails = fails
    bench.search(EACH).search()
    trial = by_key(bench)["b", "fp16"]
    assert trial.state == "complete"
    assert trial.devices["pi"].state == "infeasible"
    assert trial.devices["pi"].reason == f"{fault}: it did not fit"
    assert "latency_p50_ms@pi" not in trial.figures
    assert trial.figures["latency_p50_ms@jetson"].value is not None
    assert seen_from(trial, "pi").state == "failed"
    assert ("b", "fp16") not in members(bench, "pi")
    assert told(bench)[trial.number] == "FAIL"


def test_what_no_device_can_run_is_failed_with_each_reason(bench: Bench) -> None:
    for device in bench.two():
        device.fails = lambda kind, _, name=device.name: _raise(JobFailed("OOM", name)) if kind != "open" else None  # type: ignore[misc]
    trial = bench.try_(bench.evaluator(objectives=EACH), 0, "a", "fp16")
    assert (trial.state, trial.reason) == ("failed", "on pi: OOM: pi; on jetson: OOM: jetson")


def _raise(error: Exception) -> None:
    raise error


def test_a_device_that_answers_otherwise_has_its_own_accuracy(bench: Bench) -> None:
    pi, _ = bench.two()

    def other(bundle: Path, request: Request) -> str:
        return "no" if int(request.id.rpartition(":")[2]) % 2 else said(bundle, request)

    pi.say = other
    trial = bench.try_(bench.evaluator(objectives=EACH, racing=False), 0, "a", "fp16")
    right = sum(number % 2 == 0 for number in range(RIGHT["a", "fp16"]))
    assert trial.figures["accuracy"].value == RIGHT["a", "fp16"] / N
    assert trial.figures["accuracy@pi"].value == right / N
    assert "accuracy@jetson" not in trial.figures
    assert seen_from(trial, "pi").figures["accuracy"].value == right / N
    assert seen_from(trial, "jetson").figures["accuracy"].value == RIGHT["a", "fp16"] / N
    assert trial.devices["pi"].answered
    assert not trial.devices["jetson"].answered
    differ = sum(int(one.id) % 2 and int(one.id) < RIGHT["a", "fp16"] for one in _timed())
    changed = sum(bool(int(one.id) % 2) for one in _timed())
    assert f"answered on pi: {changed} of 24 answers differ from the host's" in trial.devices["pi"].labels
    assert differ <= changed
    assert [one.answer for one in bench.run.read_answers(0, "pi")][:2] == ["yes", "no"]
    assert [one.answer for one in bench.run.read_answers(0)][:2] == ["yes", "yes"]


def _timed() -> Any:
    return timed_items(ITEMS)


def test_the_only_device_that_answers_otherwise_decides_and_races(bench: Bench) -> None:
    device = bench.devices["local"]
    device.say = lambda bundle, request: "no" if key_of(bundle) == ("b", "fp16") else said(bundle, request)
    evaluator = bench.evaluator()
    bench.try_(evaluator, 0, "b", "int8")
    trial = bench.try_(evaluator, 1, "b", "fp16")
    assert trial.figures["accuracy"].value == 0.0
    assert trial.devices["local"].answered
    assert not [name for name in trial.figures if "@" in name]


def test_answers_that_only_vary_are_a_label(bench: Bench) -> None:
    device = bench.devices["local"]
    first = iter([True])

    def wavers(bundle: Path, request: Request) -> str:
        return "perhaps" if request.id == "0" and next(first, False) else said(bundle, request)

    device.say = wavers
    trial = bench.try_(bench.evaluator(), 0, "a", "fp16")
    assert "1 of 24 answers vary on local" in trial.devices["local"].labels
    assert not trial.devices["local"].answered
    assert device.count("answer") == 1
    assert trial.figures["accuracy"].value == RIGHT["a", "fp16"] / N


def test_what_the_host_cannot_run_is_answered_on_the_device(bench: Bench) -> None:
    pi, _ = bench.two()
    bench.devices.pop("jetson")
    bench.fails["answer", "a", "fp16"] = JobFailed("INVALID_INPUT", "there is no runtime 'server' here")
    trial = bench.try_(bench.evaluator(), 0, "a", "fp16")
    assert trial.state == "complete", trial.reason
    assert trial.figures["accuracy"].value == RIGHT["a", "fp16"] / N
    [label] = [one for one in trial.devices["pi"].labels if one.startswith("answered on pi")]
    assert "the host cannot run it (INVALID_INPUT: there is no runtime 'server' here)" in label
    assert pi.count("answer") == 1


def test_finalists_are_the_front_measured_again_and_once(bench: Bench) -> None:
    pi, jetson = bench.two()
    bench.search(EACH, finalists=True).search()
    fronts = {device.name: members(bench, device.name) for device in (pi, jetson)}
    for device in (pi, jetson):
        assert device.count("finalist") == len(fronts[device.name])
        for one, trial in by_key(bench).items():
            result = trial.devices[device.name]
            assert (result.mode == "finalist") == (one in fronts[device.name])
            assert ("provisional" in result.labels) == (one not in fronts[device.name])
            n = trial.figures[f"latency_p50_ms@{device.name}"].n
            assert n == (120 if one in fronts[device.name] else 24)
        kinds = [kind for kind, _ in device.calls]
        first = kinds.index("finalist")
        assert kinds[first - 1] == kinds[-1] == "provisional"  # the reference, before and after
    before = [len(device.calls) for device in (pi, jetson)]
    bench.search(EACH, finalists=True).search()
    assert [len(device.calls) for device in (pi, jetson)] == before


def test_finalists_are_bounded_and_nearest_the_knee(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late, "FINALISTS", 1)
    pi, jetson = bench.two()
    bench.search(EACH, finalists=True).search()
    assert pi.count("finalist") == jetson.count("finalist") == 1


def test_a_stop_during_finalists_goes_on_with_what_is_left(bench: Bench) -> None:
    device, _ = bench.two()
    bench.devices.pop("jetson")
    engine = bench.search(finalists=True)

    def fails(kind: str, bundle: Path) -> None:
        if kind == "finalist" and device.count("finalist") == 1:
            bench.stop.set()
            raise JobFailed("CRASH", "the search was stopped")

    device.fails = fails
    engine.search()
    done = {trial.number for trial in bench.run.read_trials() if trial.devices["pi"].mode == "finalist"}
    assert len(done) == 1
    device.fails = lambda *_: None
    bench.search(finalists=True).search()
    finalists = [bundle.name for kind, bundle in device.calls if kind == "finalist"]
    assert len(finalists) == len(set(finalists)) == len(members(bench, "pi")) > 1


def test_the_same_deployed_bundle_is_measured_once(bench: Bench) -> None:
    device = bench.devices["local"]
    evaluator = bench.evaluator(racing=False)
    first = bench.try_(evaluator, 0, "a", "fp16")
    second = bench.try_(evaluator, 1, "a", "fp16")
    third = bench.try_(bench.evaluator(racing=False), 2, "a", "fp16")
    assert device.count("provisional") == 1
    assert first.devices["local"].shared is None
    for trial in (second, third):
        assert trial.devices["local"].shared == 0
        assert "deploys the same as trial 0, measured once" in trial.devices["local"].labels
        assert trial.figures["latency_p50_ms"] == first.figures["latency_p50_ms"]
    bench.try_(evaluator, 3, "a", "int8")
    assert device.count("provisional") == 2


def test_references_that_were_disturbed_are_made_up_for(bench: Bench) -> None:
    pi, _ = bench.two()
    bench.devices.pop("jetson")
    references = References(bench.run, bench.evaluator().measuring)
    trial = bench.try_(bench.evaluator(), 0, "a", "fp16")
    assert references.due(trial, 1) == {"pi": 3}
    real = pi.measure

    def disturbed(*given: Any, **named: Any) -> Measurement:
        found = real(*given, **named)
        return replace(found, processes=(replace(found.processes[0], disturbed_p50_ms=(99.0,)),))

    pi.measure = disturbed  # type: ignore[method-assign]
    references.measure({"pi": 2})
    pi.measure = real  # type: ignore[method-assign]
    references.measure({"pi": 1})
    assert [references.due(trial, told) for told in (9, 16)] == [{}, {"pi": 2}]
    references.measure({"pi": 2})
    assert references.due(trial, 24) == {"pi": 1}


def test_an_invalid_measurement_is_kept_without_figures(bench: Bench) -> None:
    pi, _ = bench.two()
    real = pi.measure
    pi.measure = lambda *a, **k: replace(real(*a, **k), verdict="invalid", reasons=("throttled",))  # type: ignore[method-assign]
    trial = bench.try_(bench.evaluator(objectives=EACH), 0, "a", "fp16")
    assert trial.devices["pi"].state == "invalid"
    assert "invalid on pi: throttled" in trial.devices["pi"].labels
    assert "latency_p50_ms@pi" not in trial.figures
    assert "latency_p50_ms@jetson" in trial.figures
    kept = bench.run.read_measurement(trial.deployed, "pi")
    assert kept is not None
    assert kept.reasons == ("throttled",)


def test_a_limit_of_one_device_keeps_a_trial_from_its_front_alone(bench: Bench) -> None:
    bench.two()
    limits = {"latency_p50_ms@pi": {"max": 20.0}}
    trial = bench.try_(bench.evaluator(objectives=EACH, limits=limits), 0, "b", "fp16")
    assert trial.state == "complete"
    assert trial.violated == ()
    assert trial.devices["pi"].violated == ("latency_p50_ms@pi is 25, and its limit is max 20",)
    assert seen_from(trial, "pi").state == "infeasible"
    assert seen_from(trial, "jetson").state == "complete"
    both = limits | {"latency_p50_ms@jetson": {"max": 0.1}}
    assert bench.try_(bench.evaluator(objectives=EACH, limits=both), 1, "b", "fp16").state == "infeasible"


@pytest.mark.parametrize("reasons", [(), ("bf16 is pinned", "too large")])
def test_a_preflight_names_what_leaves_the_accelerator_or_refuses_once(bench: Bench, reasons: tuple[str, ...]) -> None:
    device = Double("npu", lambda bundle: LATENCY[key_of(bundle)], say=said, accelerators={"NPU": "an NPU"})
    left = {"TopK": "dynamic", "Gather": "dynamic"}
    device.looked = Preflight(device="NPU", operations=50, fallback=left, reasons=reasons)
    bench.devices.clear()
    bench.devices["npu"] = device
    evaluator = bench.evaluator(racing=False)
    trial = bench.try_(evaluator, 0, "a", "fp16")
    if reasons:
        assert (trial.state, trial.reason) == ("failed", "bf16 is pinned; too large")
        assert device.count("provisional") == 0
    else:
        assert trial.state == "complete"
        assert "2 of 50 operations leave NPU (TopK and 1 more)" in trial.devices["npu"].labels
    bench.try_(evaluator, 1, "a", "fp16")
    assert device.count("preflight") == 1


class Foretold:
    """In place of a profile's predictions."""

    label = "predicted from the profile p, not measured"
    profile = None

    def figures(self, candidate: Candidate, _: object) -> dict[str, Figure]:
        ms = LATENCY[str(candidate.values["model.path"]), str(candidate.values["quantization.weights"])]
        return {"latency_p50_ms": Figure(value=ms, low=ms / 2, high=2 * ms), "memory_peak_mb": Figure(value=None)}


def test_a_search_on_predictions_measures_nothing_and_says_so(bench: Bench) -> None:
    device = bench.devices["local"]
    trial = bench.try_(bench.evaluator(predicted=Foretold()), 0, "a", "fp16")
    assert trial.state == "complete"
    assert trial.figures["latency_p50_ms"] == Figure(value=10.0, low=5.0, high=20.0)
    assert "memory_peak_mb" not in trial.figures
    assert trial.devices["local"].state == "predicted"
    assert "predicted from the profile p, not measured" in seen_from(trial, "local").labels
    assert device.calls == []
    assert not list((bench.run.path / "measurements").iterdir())


def test_what_every_device_refuses_is_not_built(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.two()
    least = {"pi": True, "jetson": False}

    def refused(_: Candidate, __: object, profile: object, *___: object) -> Refusal | None:
        name = next(name for name, device in bench.devices.items() if device.profile is profile)
        return Refusal(kind="memory", reason=f"too large for {name}") if least[name] else None

    for device in bench.devices.values():
        device.profile = device.profile.model_copy()
    monkeypatch.setattr(refusing, "refused", refused)
    trial = bench.try_(bench.evaluator(objectives=EACH), 0, "a", "fp16")
    assert trial.state == "complete"
    assert trial.devices["pi"].reason == "too large for pi"
    assert bench.devices["pi"].calls == []
    least["jetson"] = True
    trial = bench.try_(bench.evaluator(objectives=EACH), 1, "a", "fp16")
    assert (trial.state, trial.stages) == ("infeasible", ())
    assert trial.violated == ("too large for pi", "too large for jetson")
    assert trial.labels == (PREDICTED,)
