"""Control groups: version 2 as file trees, since few machines that run tests have one of their own to give."""

import os
from pathlib import Path

import pytest

from hardware_profiles.agent import groups

OWN = "system.slice/vlmfront-agent.service"


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The group that systemd delegates to a service: its controllers are there, and not yet passed on."""
    folder = tmp_path / OWN
    folder.mkdir(parents=True)
    (folder / "cgroup.controllers").write_text("cpu memory pids\n")
    (folder / "cgroup.procs").write_text(f"{os.getpid()}\n")
    (folder / "cgroup.subtree_control").write_text("")
    monkeypatch.setattr(groups, "ROOT", tmp_path)
    monkeypatch.setattr(groups, "_inside", lambda: {"": OWN})
    return folder


def test_an_agent_with_a_group_of_its_own_moves_into_a_leaf_and_passes_controllers_on(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str]] = []
    write = Path.write_text

    def kernel(path: Path, text: str) -> int:
        written.append((str(path.relative_to(own)), text))
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", kernel)
    groups.make_room()
    assert written == [
        ("agent/cgroup.procs", str(os.getpid())),
        ("cgroup.subtree_control", "+memory"),
        ("cgroup.subtree_control", "+pids"),
    ]
    (own / "cgroup.subtree_control").write_text("memory pids\n")
    monkeypatch.setattr(groups, "_inside", lambda: {"": f"{OWN}/agent"})
    assert [layout.folders for layout in groups._candidates()] == [(own,)]


@pytest.mark.parametrize("procs", ["", "1\n", f"{os.getpid()}\n1\n"])
def test_a_group_that_others_are_in_stays_as_it_is(own: Path, procs: str) -> None:
    (own / "cgroup.procs").write_text(procs)
    groups.make_room()
    assert not (own / "agent").exists()
    assert (own / "cgroup.subtree_control").read_text() == ""
    assert list(groups._candidates()) == []
