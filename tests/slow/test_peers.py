"""Every peer in its own environment, replayed for a few trials on a made-up table.

Wants the environments that benchmarks/peers.lock and benchmarks/peers-neps.lock describe, named by
``VLMFRONT_TEST_PEERS`` and ``VLMFRONT_TEST_PEERS_NEPS`` (their pythons).
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "benchmarks"))

from replay import recorded  # noqa: E402
from replay.peers.catalog import PEERS  # noqa: E402
from replay.synthetic import family  # noqa: E402

PYTHONS = {
    "peers.lock": os.environ.get("VLMFRONT_TEST_PEERS"),
    "peers-neps.lock": os.environ.get("VLMFRONT_TEST_PEERS_NEPS"),
}
# Enough for each to leave its first, random design.
TRIALS = {"botorch_nehvi": 21, "ax": 9, "syne_ehvi": 8, "syne_evolution": 110, "optuna_gp": 13, "neps_primo": 45}


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_is_replayed_and_recorded(name: str, tmp_path: Path) -> None:
    python = PYTHONS[PEERS[name].lock]
    if not python:
        pytest.skip(f"no environment of benchmarks/{PEERS[name].lock} is named")
    table = family(3, items=90)
    table.save(tmp_path)
    trials = TRIALS.get(name, 40)
    command = [python, "benchmarks/run_peers.py", "--table", str(tmp_path), "--seeds", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(
        [*command, "--trials", str(trials), "--peers", name], cwd=REPOSITORY, env=environment, check=True, timeout=900
    )
    runs = recorded.read(tmp_path, name)
    assert [run.rule for run in runs] == ["plain", "cached"]
    plain, cached = runs
    assert plain.trials == trials
    assert [rows for _, rows in plain.changes] == [rows for _, rows in cached.changes]
    assert all(free <= paid for (paid, _), (free, _) in zip(plain.changes, cached.changes, strict=True))
    signs = np.array([-1.0 if sense == "max" else 1.0 for sense in table.objectives.values()])
    returned = (table.values * signs)[plain.changes[-1][1]]
    assert table.ok[plain.changes[-1][1]].all()
    for one in returned:
        assert not any((other <= one).all() and (other < one).any() for other in returned)
