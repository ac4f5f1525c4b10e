from pathlib import Path

import pytest

from tests.fuzz import fuzz, readers

SEED, COUNT = 20261120, 2_000


def test_what_is_spoiled_was_valid(tmp_path: Path) -> None:
    for path, write, valid, read in readers(tmp_path).values():
        path.write_text(write(valid))
        read(path)


def test_spoiled_files_are_read_or_refused_in_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = fuzz(tmp_path, COUNT, SEED)
    print(f"seed {SEED}: {found}")
    assert sum(counts.total() for counts in found.values()) == COUNT
    for counts in found.values():
        assert counts["read"] > 5, "too few inputs reach beyond the parser"
        assert counts["refused"] > 100, "too few inputs are spoiled"
