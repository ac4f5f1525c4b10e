import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from objectives.records import Baseline, ScoredAnswer
from objectives.run import RunFolder
from objectives.trial import Figure, StageCost, Trial
from reports import tables
from reports.charts import front_chart, model_order
from reports.front import front
from reports.html import report_html, write_report
from reports.markup import Html, element, join
from reports.stages import stage_totals
from reports.tables import failures_table, shared_labels
from reports.words import halves, model_names
from spaces.errors import BadInput

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"


class Page(HTMLParser):
    """The tags of a page with their attributes, the visible text, and what the scripts hold."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: dict[str, str] = {}
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            script = [attributes for tag, attributes in self.tags if tag == "script"][-1]
            self.scripts[script.get("id") or f"script{len(self.scripts)}"] = data
        elif self._open and self._open[-1] != "style":
            self.text.append(data)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    path = tmp_path_factory.mktemp("hostile") / "run"
    settings = {
        "name": HOSTILE,
        "task": {"name": HOSTILE},
        "space_id": HOSTILE,
        "devices": {HOSTILE: {"profile": HOSTILE, "runtimes": {HOSTILE: HOSTILE}, "facts": {"model": HOSTILE}}},
        "versions": {HOSTILE: "1"},
    }
    run = RunFolder.create(path, settings)
    good = Figure(value=0.5, low=0.4, high=0.6, n=50)
    known: dict[str, Any] = {"candidate_id": "x", "candidate": {"model.path": HOSTILE, "prompt.template": HOSTILE}}
    run.write_trial(
        Trial(
            number=0,
            state="complete",
            figures={"accuracy": good, "latency_p50_ms": Figure(value=3.0, n=11)},
            slices={HOSTILE: {HOSTILE: good, "other": good}},
            labels=(HOSTILE,),
            stages=(StageCost(name=HOSTILE, key="k", seconds=1.0, reused=False),),
            **known,
        )
    )
    run.write_trial(Trial(number=1, state="failed", reason=HOSTILE, **known))
    run.write_baselines([Baseline(name=HOSTILE, explained=HOSTILE, accuracy=good)])
    run.log_holdout(HOSTILE, [0])
    return Page(write_report(run).read_text(encoding="utf-8"))


def test_hostile_text_stays_text(page: Page) -> None:
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert not [tag for tag, _ in page.tags if tag in ("img", "iframe", "object", "link", "base", "form", "a")]
    for _, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
    assert "".join(page.text).count(HOSTILE) >= 8
    chart = json.loads(page.scripts["front-data"])
    hover = next(trace for trace in chart["data"] if trace.get("hovertext"))["hovertext"][0]
    assert "<img" not in hover
    assert "<script" not in hover


def test_one_file_that_loads_nothing(page: Page) -> None:
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    for tag, attributes in page.tags:
        assert "src" not in attributes, tag
        assert "href" not in attributes, tag
    assert any("plotly" in script[:400].lower() and len(script) > 1_000_000 for script in page.scripts.values())


def test_the_report_shows_what_the_run_holds(run: RunFolder, trials: list[Trial]) -> None:
    run.log_holdout("pick knee", [3])
    run.log_holdout("pick accuracy", [5])
    page = Page(report_html(run))
    text = " ".join(page.text)
    found = front(trials)
    assert f"{len(found.members)} of {len(found.members) + len(found.dominated)} measured configurations" in text
    for words in (
        "synthetic inspection",
        "Where the time went",
        "the group size 64 does not divide the pruned width 96.",
        "memory_peak_mb is 241 MB, the limit is 220 MB",
        "memory_peak_mb max 220",
        "Always the commonest answer",
        "Best model, blank image",
        "kept out",
        "Accuracy by kind",
        "more than once",
        "provisional",
    ):
        assert words in text
    rows = [attributes for tag, attributes in page.tags if tag == "tr" and "data-state" in attributes]
    assert len(rows) == len(trials) + len(found.members)
    shown = [a for tag, a in page.tags if "data-detail" in a and "hidden" not in a]
    assert len(shown) == 1


def test_a_run_without_a_complete_trial_has_a_report(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", {"name": "new"})
    assert "No configuration has been measured in full yet" in report_html(run)
    run.write_trial(Trial(number=0, candidate_id="x", candidate={}, state="running"))
    page = Page(report_html(run))
    assert json.loads(page.scripts["front-data"]) is None


def test_chart_has_front_points_intervals_and_baselines(trials: list[Trial], run: RunFolder) -> None:
    found = front(trials)
    chart = front_chart(found, run.read_baselines(), model_order(trials))
    line, *points = chart["data"]
    assert line["line"]["shape"] == "hv"
    assert list(zip(line["x"], line["y"], strict=True)) == sorted(
        (t.figures["latency_p50_ms"].value, t.figures["accuracy"].value) for t in found.trials
    )
    drawn = sorted(number for trace in points for number in trace["customdata"])
    assert drawn == sorted(found.probabilities)
    members = [trace for trace in points if "error_y" in trace]
    assert sorted(n for trace in members for n in trace["customdata"]) == sorted(t.number for t in found.trials)
    number = members[0]["customdata"][0]
    accuracy = next(t for t in trials if t.number == number).figures["accuracy"]
    assert accuracy.high is not None
    assert members[0]["y"][0] + members[0]["error_y"]["array"][0] == pytest.approx(accuracy.high)
    assert chart["layout"]["xaxis"]["type"] == "log"
    assert [shape["y0"] for shape in chart["layout"]["shapes"]] == [214 / 512, 192 / 512]


def test_a_narrow_latency_range_is_linear(trials: list[Trial]) -> None:
    near = [
        replace(t, figures={**t.figures, "latency_p50_ms": Figure(value=10.0 + t.number, n=11)})
        for t in trials
        if t.state == "complete"
    ]
    assert front_chart(front(near), (), model_order(near))["layout"]["xaxis"]["type"] == "linear"


def test_models_keep_the_order_of_the_space(trials: list[Trial]) -> None:
    complete = [t for t in trials if t.state == "complete"]
    assert [*model_order(complete).values()] == ["inspection-n", "inspection-s", "inspection-m", "inspection-l"]
    listed = [*model_order(complete, ["models/inspection-m", "a/none"]).values()]
    assert listed[:3] == ["inspection-m", "none", "inspection-n"]


def test_models_of_the_same_folder_name_are_told_apart(trials: list[Trial]) -> None:
    paths = ["/a/x/small", "/b/x/small", "c/large", "small"]
    assert model_names(paths) == {paths[0]: "a/x/small", paths[1]: "b/x/small", paths[2]: "large", "small": "small"}
    good = [trial for trial in trials if trial.state == "complete"][:2]
    twins = [replace(t, candidate={"model.path": f"{'ab'[i]}/small"}) for i, t in enumerate(good)]
    found = front(twins)
    points = front_chart(found, (), model_order(twins))["data"][1:]
    assert {trace["name"] for trace in points} == {"a/small", "b/small"}
    assert len({trace["marker"]["color"] for trace in points}) == 2


def test_stage_totals_by_hand() -> None:
    def with_stages(number: int, reused: bool) -> Trial:
        stages = (
            StageCost(name="tuning", key="t", seconds=9.0, reused=reused),
            StageCost(name="model", key="m", seconds=1.0, reused=True),
        )
        seconds = {"build": 9.5 if number == 0 else 0.25 * (number - 1), "score": 2.0, "measure": 0.5}
        return Trial(number=number, candidate_id="", candidate={}, state="complete", stages=stages, seconds=seconds)

    totals = stage_totals([with_stages(0, False), with_stages(1, True), with_stages(2, True)])
    assert [(t.name, t.built, t.reused, t.spent, t.saved) for t in totals] == [
        ("model", 0, 3, 0.0, 3.0),
        ("tuning", 1, 2, 9.0, 18.0),
        ("overhead", 2, 0, 0.75, 0.0),
        ("scoring", 3, 0, 6.0, 0.0),
        ("measuring", 3, 0, 1.5, 0.0),
    ]


def test_building_faster_than_its_stages_is_no_negative_overhead() -> None:
    stage = StageCost(name="model", key="m", seconds=3.0, reused=False)
    trial = Trial(
        number=0, candidate_id="", candidate={}, state="complete", stages=(stage,), seconds={"build": 2.9, "score": 1.0}
    )
    assert [total.name for total in stage_totals([trial])] == ["model", "scoring"]


def test_accuracy_of_the_halves_is_in_the_hover(trials: list[Trial]) -> None:
    good = next(trial for trial in trials if trial.state == "complete")
    known, kept_out = good.slices["wording"]["known"].value, good.slices["wording"]["kept_out"].value
    expected = f"kept out {kept_out:.2f} · known {known:.2f}"
    assert halves(good) == expected
    assert halves(replace(good, slices={"kind": good.slices["kind"], "one": {"all": good.figures["accuracy"]}})) == ""
    hover = front_chart(front([good]), (), model_order([good]))["data"][1]["hovertext"][0]
    assert expected in hover


def test_a_missing_blank_image_is_said(run: RunFolder) -> None:
    words = "Missing so far: best model, blank image"
    assert words not in report_html(run)
    run.write_baselines(run.read_baselines()[:1])
    assert words in report_html(run)


def test_a_run_that_cannot_be_written_to(run: RunFolder) -> None:
    run.path.chmod(0o555)
    try:
        with pytest.raises(BadInput, match=r"report\.html: the report cannot be written .*read-only"):
            write_report(run)
    finally:
        run.path.chmod(0o755)


def test_the_report_takes_its_floor_from_the_answers(run: RunFolder, trials: list[Trial]) -> None:
    exact = front(trials, floors={"accuracy": 0.0, "latency_p50_ms": 0.0}).trials
    for trial in exact:
        run.write_answers(trial.number, [ScoredAnswer(id=str(i), answer="", score=1.0) for i in range(94)])
    assert "accuracy 2.0 points" in report_html(run)  # 1.96 / 96, as all agree
    path = run.path / "answers" / f"{exact[0].number:05d}.jsonl"
    path.write_text("{damaged")
    with pytest.raises(BadInput, match=f"answers of trial {exact[0].number} cannot be read"):
        report_html(run)


def test_failures_are_grouped_by_reason(trials: list[Trial]) -> None:
    table = failures_table(trials)
    assert table is not None
    assert len(re.findall("<tr>", table)) == 3
    assert failures_table([t for t in trials if t.state == "complete"]) is None


def test_labels_of_every_trial_are_said_once(run: RunFolder, trials: list[Trial]) -> None:
    complete = [trial for trial in trials if trial.state == "complete"]
    assert shared_labels(complete) == ("provisional",)
    assert shared_labels(complete[:1]) == ()
    page = report_html(run)
    assert page.count(">provisional<") == 0
    assert "Holds for every trial: provisional." in page


def test_markup_escapes_all_but_its_own() -> None:
    assert element("td", "<b>", Html("<i>"), class_='a"b', data_v=1, hidden=False, tabindex=None) == (
        '<td class="a&quot;b" data-v="1">&lt;b&gt;<i></td>'
    )
    assert join("&", None, 3) == "&amp;3"


def test_pauses_do_not_count_as_time_used() -> None:
    from reports.summary import time_used

    times = [(0.0, 10.0), (5.0, 12.0), (100.0, 103.0), (101.0, 102.0)]
    trials = [
        Trial(number=i, candidate_id="", candidate={}, state="complete", started=1e9 + a, finished=1e9 + b)
        for i, (a, b) in enumerate(times)
    ]
    assert time_used(trials) == 15.0


def test_a_long_note_is_whole_where_one_points_at_it(run: RunFolder, trials: list[Trial]) -> None:
    long = "disturbed in each of 3 attempts: foreign work took 0.81 of a processor: process 7 (sh -c" + " x" * 99 + ")"
    run.write_trial(replace(trials[1], labels=(long,)))
    page = Page(report_html(run))
    titles = [a["title"] for tag, a in page.tags if tag == "span" and a.get("class") == "label"]
    assert long in titles
    [shown] = [text for text in page.text if text.startswith("disturbed in each")]
    assert shown.startswith(long[:100])
    assert len(shown) <= 120
    css = (Path(tables.__file__).parent / "assets" / "report.css").read_text()
    [rule] = re.findall(r"^\.label {(.*)}", css, re.MULTILINE)
    assert "nowrap" not in rule
    assert "ellipsis" not in rule
