from pathlib import Path

from tests.fuzz_inputs import KINDS, fuzz

COUNT = 2000


def test_2000_inputs_that_nobody_should_send(tmp_path: Path) -> None:
    found = fuzz(tmp_path, COUNT, seed=0)
    assert set(found) == set(KINDS)
    assert sum(counts.total() for counts in found.values()) == COUNT
    for kind in ("paired", "body", "manifest", "place", "header"):  # neither everything nor nothing is refused
        assert any(outcome.startswith("20") for outcome in found[kind]), found[kind]
        assert len(found[kind]) > 1, found[kind]
