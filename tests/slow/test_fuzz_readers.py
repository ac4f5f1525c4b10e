"""Fuzz of every reader of a user's files: YAML of tasks, spaces and searches, JSONL and CSV."""

import os
from pathlib import Path

import pytest

from tests.fuzz import fuzz

COUNT = 100_000


@pytest.mark.slow
def test_100000_spoiled_files_are_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    seed = int(os.environ.get("VLMFRONT_FUZZ_SEED", "1"))
    found = fuzz(tmp_path, COUNT, seed)
    print(f"seed {seed}: {found}")
    assert sum(counts.total() for counts in found.values()) == COUNT
