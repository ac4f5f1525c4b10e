import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hardware_profiles.agent import jobs as jobs_module
from hardware_profiles.agent.exchange import Refused
from hardware_profiles.agent.jobs import Jobs, Ledger, Record

UUIDS = [f"00000000-0000-0000-0000-{number:012}" for number in range(6)]


class Kept:
    """A folder in which jobs are opened again and again, as after a kill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.removed: list[set[str]] = []
        self.audited: list[tuple[str, str]] = []
        self.folder.mkdir(exist_ok=True)

    def open(self, boot_id: str = "boot") -> Jobs:
        return Jobs(
            self.folder,
            boot_id=boot_id,
            remove_images=self.removed.append,
            audit=lambda *line: self.audited.append(line),
        )


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "state")


def record(uuid: str = UUIDS[0], peer: str = "a") -> Record:
    return Record(uuid=uuid, peer=peer * 64, epoch=7, digest="d" * 64)


def test_a_result_is_kept_over_a_restart_until_it_is_acknowledged(kept: Kept) -> None:
    jobs = kept.open()
    jobs.submit(record())
    assert jobs.start(UUIDS[0])
    jobs.emit(UUIDS[0], "phase", {"phase": "load"})
    jobs.emit(UUIDS[0], "answers", {"answers": [{"id": "0", "text": "ä\ud800\n", "tokens": 1}]})
    jobs.end(UUIDS[0], "done", "result", {"load_s": 1.5})
    events = jobs[UUIDS[0]].events
    assert [(one.seq, one.event) for one in events] == [(1, "phase"), (2, "answers"), (3, "result")]
    again = kept.open()
    assert again[UUIDS[0]].events == events
    assert (again[UUIDS[0]].status, again[UUIDS[0]].digest, again[UUIDS[0]].peer) == ("done", "d" * 64, "a" * 64)
    again.acknowledge(UUIDS[0])
    assert again.known(UUIDS[0]) == kept.open().known(UUIDS[0]) == "acknowledged"
    assert not (kept.folder / "jobs" / UUIDS[0]).exists()


@pytest.mark.parametrize(("boot_id", "reason"), [("boot", "the agent restarted"), ("other", "the device restarted")])
@pytest.mark.parametrize("started", [False, True])
def test_what_had_not_ended_is_lost_and_says_why(kept: Kept, boot_id: str, reason: str, started: bool) -> None:
    jobs = kept.open()
    jobs.submit(record())
    if started:
        jobs.start(UUIDS[0])
        jobs.emit(UUIDS[0], "phase", {"phase": "load"})
    for again in (kept.open(boot_id), kept.open(boot_id)):
        found = again[UUIDS[0]]
        assert found.status == "failed"
        assert [one.event for one in found.events] == ["phase", "fault"][not started :]
        assert found.events[-1].content == {"fault": "DEVICE_LOST", "reason": f"{reason} before the job ended"}


@pytest.mark.parametrize("what", ["events.jsonl", "."])
def test_a_job_whose_files_are_of_the_wrong_kind_is_lost_like_any_other(kept: Kept, what: str) -> None:
    kept.open().submit(record())
    path = kept.folder / "jobs" / UUIDS[0] / what
    if what == ".":
        path.write_text("a file in the folder's place")
    else:
        (path / "inner").mkdir(parents=True)
    for again in (kept.open(), kept.open()):
        assert [one.event for one in again[UUIDS[0]].events] == ["fault"]
        assert again[UUIDS[0]].status == "failed"


def test_a_result_that_the_journal_does_not_know_of_yet_counts(kept: Kept) -> None:
    jobs = kept.open()
    jobs.submit(record())
    jobs.start(UUIDS[0])
    jobs.end(UUIDS[0], "done", "result", {"load_s": 1.5})
    journal = kept.folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert json.loads(lines[-1])["change"] == "ended"
    journal.write_text("".join(lines[:-1]))
    assert kept.open()[UUIDS[0]].status == "done"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(cut=st.integers(0, 2000))
def test_a_journal_cut_anywhere_is_a_journal_of_earlier(kept: Kept, cut: int) -> None:
    """Cut between two lines or within one: what the whole lines say holds, and the next lines are readable again."""
    shutil.rmtree(kept.folder)
    kept.folder.mkdir()
    jobs = kept.open()
    for uuid in UUIDS[:3]:
        jobs.submit(record(uuid))
    jobs.end(UUIDS[0], "cancelled")
    jobs.acknowledge(UUIDS[0])
    jobs.end(UUIDS[1], "done", "result", {})
    journal = kept.folder / "journal.jsonl"
    whole = journal.read_bytes()
    cut = min(cut, len(whole))
    journal.write_bytes(whole[:cut])
    lines = [json.loads(line) for line in whole[:cut].split(b"\n")[:-1]]
    submitted = {line["uuid"] for line in lines if line["change"] == "submitted"}
    gone = {uuid for line in lines if line["change"] == "acknowledged" for uuid in line["uuids"]}
    again = kept.open()
    expected = {uuid: "acknowledged" if uuid in gone else "kept" if uuid in submitted else "new" for uuid in UUIDS}
    assert {uuid: again.known(uuid) for uuid in UUIDS} == expected
    again.submit(record(UUIDS[5]))
    assert kept.open().known(UUIDS[5]) == "kept"
    assert not kept.audited


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(cut=st.integers(0, 400))
def test_events_cut_anywhere_are_those_of_earlier_without_gaps(kept: Kept, cut: int) -> None:
    shutil.rmtree(kept.folder)
    kept.folder.mkdir()
    jobs = kept.open()
    jobs.submit(record())
    jobs.start(UUIDS[0])
    for number in range(4):
        jobs.emit(UUIDS[0], "process", {"done": number, "of": 4})
    path = kept.folder / "jobs" / UUIDS[0] / "events.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    left = whole[:cut].count(b"\n")
    for again in (kept.open(), kept.open()):
        events = again[UUIDS[0]].events
        assert [one.seq for one in events] == list(range(1, left + 2))
        assert [one.event for one in events] == ["process"] * left + ["fault"]


def test_damage_within_the_journal_is_passed_over_and_told(kept: Kept) -> None:
    jobs = kept.open()
    jobs.submit(record(UUIDS[0]))
    jobs.submit(record(UUIDS[1]))
    journal = kept.folder / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(UUIDS[0].encode(), b'"\0'))
    again = kept.open()
    assert (again.known(UUIDS[0]), again.known(UUIDS[1])) == ("new", "kept")
    assert [event for event, _ in kept.audited] == ["journal damaged"]


@pytest.mark.parametrize("line", [b"[" * 200_000, b"../../victim"], ids=["deep", "leaves the folder"])
def test_a_line_that_no_agent_wrote_ends_nothing_and_leads_nowhere(kept: Kept, line: bytes) -> None:
    kept.open().submit(record())
    journal = kept.folder / "journal.jsonl"
    last = journal.read_bytes().splitlines()[-1]
    with journal.open("ab") as stream:
        stream.write((last.replace(UUIDS[0].encode(), line) if b"/" in line else line) + b"\n")
    assert kept.open().known(UUIDS[0]) == "kept"
    assert [event for event, _ in kept.audited] == ["journal damaged"]
    assert not (kept.folder.parent / "victim").exists()


def test_uuids_are_remembered_but_not_without_end(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs_module.MOST_FORGOTTEN >= 10_000
    monkeypatch.setattr(jobs_module, "MOST_FORGOTTEN", 3)
    ledger = Ledger()
    for uuid in UUIDS:
        ledger.apply({"change": "acknowledged", "uuids": [uuid]})
    assert list(ledger.forgotten) == UUIDS[-3:]


def test_a_ledger_amounts_to_what_its_lines_say() -> None:
    ledger = Ledger()
    for number, uuid in enumerate(UUIDS):
        ledger.apply({"change": "submitted", "uuid": uuid, "peer": "p", "epoch": number, "digest": "d"})
    ledger.apply({"change": "ended", "uuid": UUIDS[1], "status": "done"})
    ledger.apply({"change": "acknowledged", "uuids": [UUIDS[2]]})
    again = Ledger()
    for change in ledger.changes():
        again.apply(json.loads(json.dumps(change)))
    assert again == ledger


def test_the_journal_stays_small(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "JOURNAL_BYTES", 2000)
    monkeypatch.setattr(jobs_module, "MOST_FORGOTTEN", 10)
    jobs = kept.open()
    for number in range(100):
        uuid = f"00000000-0000-0000-0000-{number:012}"
        jobs.submit(record(uuid))
        jobs.end(uuid, "cancelled")
        jobs.acknowledge(uuid)
        assert (kept.folder / "journal.jsonl").stat().st_size < 3000


def test_the_table_is_bounded_by_what_nobody_fetches(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MOST_KEPT", 2)
    jobs = kept.open()
    jobs.submit(record(UUIDS[0]))
    jobs.submit(record(UUIDS[1]))
    with pytest.raises(Refused, match="NO_SPACE"):
        jobs.submit(record(UUIDS[2]))
    jobs.end(UUIDS[1], "done", "result", {})
    jobs.submit(record(UUIDS[2]))
    assert jobs.known(UUIDS[1]) == "acknowledged"
    assert [event for event, _ in kept.audited] == ["result dropped"]


def test_who_fills_the_table_loses_results_before_others_do(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MOST_KEPT", 3)
    jobs = kept.open()
    for uuid, peer in zip(UUIDS[:3], "bac", strict=False):
        jobs.submit(record(uuid, peer))
        jobs.end(uuid, "done", "result", {})
    jobs.submit(record(UUIDS[3], "a"))
    assert jobs.known(UUIDS[1]) == "acknowledged"
    with pytest.raises(Refused, match="NO_SPACE"):
        jobs.submit(record(UUIDS[4], "a"))
    jobs.submit(record(UUIDS[5], "b"))
    assert [jobs.known(uuid) for uuid in (UUIDS[0], UUIDS[2])] == ["acknowledged", "kept"]


def test_a_job_that_is_over_stays_as_it_is(kept: Kept) -> None:
    jobs = kept.open()
    jobs.submit(record())
    jobs.end(UUIDS[0], "cancelled")
    assert not jobs.start(UUIDS[0])
    jobs.emit(UUIDS[0], "phase", {"phase": "load"})
    jobs.end(UUIDS[0], "done", "result", {})
    assert (jobs[UUIDS[0]].status, jobs[UUIDS[0]].events) == ("cancelled", [])


def test_a_full_disk_refuses_new_jobs_but_not_results(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = kept.open()
    jobs.submit(record())
    jobs.start(UUIDS[0])

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(jobs_module, "append", full)
    with pytest.raises(Refused, match="NO_SPACE: the device cannot write its journal"):
        jobs.submit(record(UUIDS[1]))
    assert jobs.known(UUIDS[1]) == "new"
    jobs.end(UUIDS[0], "done", "result", {"load_s": 1.0})
    assert jobs[UUIDS[0]].status == "done"
    assert jobs[UUIDS[0]].events[-1].event == "result"
    assert [event for event, _ in kept.audited] == ["not kept"]
    with pytest.raises(Refused, match="NO_SPACE"):
        jobs.acknowledge(UUIDS[0])
    assert jobs.known(UUIDS[0]) == "kept"


def test_images_go_before_the_links_that_name_them(kept: Kept) -> None:
    jobs = kept.open()
    jobs.submit(record())
    for name in ("e" * 64, "f" * 64):
        path = kept.folder / "jobs" / UUIDS[0] / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (kept.folder / "jobs" / "stray" / "images").mkdir(parents=True)
    (kept.folder / "jobs" / "stray" / "images" / ("1" * 64)).write_bytes(b"")
    kept.removed.clear()
    kept.open()
    assert kept.removed[0] == {"e" * 64, "f" * 64, "1" * 64}
    assert sorted(path.name for path in (kept.folder / "jobs").rglob("*")) == [UUIDS[0], "events.jsonl"]
