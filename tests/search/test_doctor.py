import json
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from search import doctor
from search.cli import main


@pytest.fixture(scope="module")
def findings() -> dict[str, doctor.Finding]:
    return {finding.check: finding for finding in doctor.examine()}


def test_here_a_search_can_work(findings: dict[str, doctor.Finding]) -> None:
    assert [one for one in findings.values() if one.state == "fail"] == []
    assert {"Python", "torch", "transformers", "nncf", "optuna", "openvino-genai", "disk", "hard links"} <= set(
        findings
    )
    assert findings["openvino inference"].state == "ok"
    assert all(one.cure for one in findings.values() if one.state != "ok")


def test_a_missing_distribution_fails_and_another_version_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "nncf":
            raise metadata.PackageNotFoundError(name)
        return "5.9.1" if name == "transformers" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = {one.check: one for one in doctor._distributions()}
    assert (found["nncf"].state, found["nncf"].detail) == ("fail", "not installed")
    assert found["transformers"].state == "warn"
    assert "<5.6" in found["transformers"].detail
    assert found["optuna"].state == "ok"


def test_a_package_of_several_extras_is_found_once_and_held_to_all_its_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ['safetensors>=0.5; extra == "device"', 'safetensors>=0.8; extra == "search"', 'httpx; extra == "host"']
    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(metadata, "version", lambda _: "0.6")
    found = [(one.check, one.state) for one in doctor._distributions()]
    assert found == [("httpx", "ok"), ("safetensors", "warn")]


def test_what_raises_is_a_failure_in_one_line() -> None:
    def broken() -> str:
        raise RuntimeError("operator torchvision::nms\ndoes not exist")

    found = doctor._guarded("torchvision", broken, "pip uninstall torchvision")
    assert found.state == "fail"
    assert found.detail == "RuntimeError: operator torchvision::nms does not exist"


@pytest.mark.parametrize(("free", "state"), [(5 << 29, "warn"), (1 << 29, "fail"), (50 << 30, "ok")])
def test_the_disk_of_the_store_counts(free: int, state: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Any = type("usage", (), {"free": free})
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage if folder == tmp_path else None)
    assert doctor._disk(tmp_path / "not" / "there").state == state


def test_a_file_system_without_hard_links_warns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._hard_links(tmp_path).state == "ok"

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert doctor._hard_links(tmp_path).state == "warn"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
@pytest.mark.parametrize("as_json", [True, False])
def test_the_exit_code_says_whether_a_search_can_work(
    state: Any, code: int, as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    finding = doctor.Finding(check="disk", state=state, detail="full", cure="" if state == "ok" else "make room")
    monkeypatch.setattr(doctor, "examine", lambda store: iter([finding]))
    monkeypatch.setattr(sys, "argv", ["vlmfront", "doctor", *(["--json"] if as_json else [])])
    with pytest.raises(SystemExit) as left:
        main()
    out = capsys.readouterr().out
    assert int(left.value.code or 0) == code
    if as_json:
        assert json.loads(out)["able"] is (code == 0)
    else:
        assert ("make room" in out) is (state != "ok")
