from pathlib import Path

import pytest

from hardware_profiles.bundle import Execution, open_bundle, seal
from objectives.run import RunFolder
from objectives.trial import Trial
from reports.export import export
from spaces.errors import BadInput
from spaces.prompting import Prompt


@pytest.fixture
def number(run: RunFolder, trials: list[Trial]) -> int:
    """A trial of the run whose bundle is kept."""
    trial = next(trial for trial in trials if trial.state == "complete")
    folder = run.bundle(trial.number)
    (folder / "sub").mkdir(parents=True)
    (folder / "openvino_language_model.xml").write_text("<net/>")
    (folder / "openvino_language_model.bin").write_bytes(bytes(range(256)))
    (folder / "sub" / "config.json").write_text("{}")
    seal(
        folder,
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=8,
        execution=Execution(),
        candidate=dict(trial.candidate),
        provenance={"trial": trial.number},
    )
    return trial.number


def test_the_copy_is_verified_and_carries_its_figures(run: RunFolder, number: int, tmp_path: Path) -> None:
    out = tmp_path / "new" / "best"
    bundle = export(run, number, out)
    source = open_bundle(run.bundle(number))
    assert bundle.manifest.files == source.manifest.files
    assert bundle.manifest.provenance == source.manifest.provenance
    expected = run.read_trial(number).figures["accuracy"]
    assert bundle.manifest.measured["accuracy"]["value"] == expected.value
    assert open_bundle(out).size_bytes == source.size_bytes
    assert [path.name for path in out.parent.iterdir()] == ["best"]
    assert source.manifest.measured == {}


def test_exports_from_a_read_only_run(run: RunFolder, number: int, tmp_path: Path) -> None:
    for folder in (run.bundle(number), run.path / "bundles", run.path):
        folder.chmod(0o555)
    try:
        export(run, number, tmp_path / "best")
        assert (tmp_path / "best").stat().st_mode & 0o200
    finally:
        for folder in (run.path, run.path / "bundles", run.bundle(number)):
            folder.chmod(0o755)


def test_refuses_to_overwrite(run: RunFolder, number: int, tmp_path: Path) -> None:
    out = tmp_path / "best"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(BadInput, match="already"):
        export(run, number, out)
    assert (out / "mine.txt").read_text() == "keep"


def test_refuses_a_bundle_that_was_changed_and_leaves_nothing(run: RunFolder, number: int, tmp_path: Path) -> None:
    (run.bundle(number) / "openvino_language_model.bin").write_bytes(bytes(256))
    out = tmp_path / "new" / "best"
    with pytest.raises(BadInput, match=r"language_model\.bin"):
        export(run, number, out)
    assert not out.parent.exists()


def test_refuses_what_is_not_there(run: RunFolder, number: int, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no trial 9999"):
        export(run, 9999, tmp_path / "out")
    with pytest.raises(BadInput, match=f"bundles are kept of {number}"):
        export(run, number + 1, tmp_path / "out")


def test_refuses_a_read_only_place(run: RunFolder, number: int, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    with pytest.raises(BadInput, match="read-only"):
        export(run, number, closed / "best")
    assert list(closed.iterdir()) == []
