"""Case 21: paths that leave the bundle or stand for two files: the manifest is rejected whole, nothing is written."""

import json
from pathlib import Path

import pytest

from hardware_profiles.bundle import MANIFEST
from hardware_profiles.devices.remote import RemoteDevice
from hardware_profiles.messages import JobFailed
from spaces.errors import BadInput
from tests.faults.agent_bench import NEVER, Bench, Start, packed, questions, sealed
from tests.hardware_profiles.agent.test_headers import NAMES

FILES = {"config.json": b"{}", "sub/deep/more.json": b"[]"}
MORE = {
    "far above": "../" * 40 + "tmp/x.json",
    "the agent's own": "../../../journal.jsonl",
    "home": "~/../../x.json",
    "twice a slash": "sub//x.json",
    "a folder as a file": "sub",
    "a folder as a file in capitals": "SUB/Deep",
    "dots alone": "..",
    "a device": "NUL:",
    "a share": "\\\\host\\x.json",
    "case within a folder": "SUB/deep/MORE.json",
    "a control character": "x\x7f.json",
    "written backwards": "x\u202enosj.exe",
}


def listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def refuse(agent: Bench, device: RemoteDevice, folder: Path, text: str, reason: str) -> None:
    """The agent refuses a job with this manifest, and everything is as it was around it."""
    job = packed(folder, questions(folder.parent), text)
    device.upload(job.blobs, NEVER)
    around, within = listing(folder.parent), {path.name for path in (agent.state / "jobs").iterdir()}
    with pytest.raises(JobFailed, match=reason) as refused:
        device._submit(job, device._patience(NEVER))
    assert refused.value.fault == "INVALID_INPUT"
    assert listing(folder.parent) - around <= {"state/audit.jsonl"}
    assert {path.name for path in (agent.state / "jobs").iterdir()} == within
    assert agent.executions() == 0


def test_case_21_each_bad_path_is_refused_whole_by_host_and_agent(start: Start, tmp_path: Path) -> None:
    agent, folder = start(), sealed(tmp_path / "bundle", FILES)
    device, whole = agent.open(), (folder / MANIFEST).read_text()
    for path in {**NAMES, **MORE}.values():
        body = json.loads(whole)
        body["files"][path] = body["files"]["config.json"]
        text = json.dumps(body)
        refuse(agent, device, folder, text, r"manifest\.json (lists|has characters)")
        (folder / MANIFEST).write_text(text)
        with pytest.raises(BadInput, match=r"manifest\.json (lists|has characters)"):
            device.answer(folder, questions(tmp_path), cancel=NEVER)
        (folder / MANIFEST).write_text(whole)
    assert len(device.answer(folder, questions(tmp_path), cancel=NEVER).answers) == 3


def test_case_21_a_path_that_comes_twice(start: Start, tmp_path: Path) -> None:
    agent, folder = start(), sealed(tmp_path / "bundle", FILES)
    text = (folder / MANIFEST).read_text()
    entry = json.dumps(json.loads(text)["files"]["config.json"])
    refuse(
        agent, agent.open(), folder, text.replace('"files": {', f'"files": {{"config.json": {entry},'), "comes twice"
    )


def test_case_21_symbolic_links_do_not_travel(start: Start, tmp_path: Path) -> None:
    """The wire has none; a host refuses to read one into a bundle, and the agent replaces none in its own folder."""
    agent, folder = start(), sealed(tmp_path / "bundle", FILES)
    device, asked, secret = agent.open(), questions(tmp_path), tmp_path / "secret"
    secret.write_bytes(b"{}")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(secret)
    with pytest.raises(BadInput, match="is a symbolic link"):
        device.answer(folder, asked, cancel=NEVER)
    assert not agent.blobs()
    (folder / "config.json").unlink()
    (folder / "config.json").write_bytes(b"{}")
    device.answer(folder, asked, cancel=NEVER)
    laid = [path for path in (agent.state / "jobs").rglob("*") if path.is_symlink()]
    assert not laid


@pytest.mark.parametrize("sha", ["../../epoch", "../../../secret", "0" * 63, "A" * 64, "", None])
def test_case_21_a_digest_that_is_a_path(start: Start, tmp_path: Path, sha: str | None) -> None:
    agent, folder = start(), sealed(tmp_path / "bundle", FILES)
    body = json.loads((folder / MANIFEST).read_text())
    body["files"]["config.json"]["sha256"] = sha
    refuse(agent, agent.open(), folder, json.dumps(body), "out of range")
