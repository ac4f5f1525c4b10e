"""Fuzz of a real agent over TLS: frames, headers, messages, paths, manifests and model files."""

import os
import time
from pathlib import Path

import pytest

from tests.fuzz_inputs import fuzz

COUNT = int(os.environ.get("VLMFRONT_FUZZ_COUNT", "100000"))


@pytest.mark.slow
def test_100000_inputs_that_nobody_should_send_to_an_agent(tmp_path: Path) -> None:
    seed, begun = int(os.environ.get("VLMFRONT_FUZZ_SEED", "1")), time.monotonic()
    found = fuzz(tmp_path, COUNT, seed)
    print(f"\nseed {seed}, {time.monotonic() - begun:.0f} s")
    for kind, counts in found.items():
        print(kind, dict(counts.most_common()))
    assert sum(counts.total() for counts in found.values()) == COUNT
