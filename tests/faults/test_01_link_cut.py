"""Case 1: the link is cut in the middle of a blob. The upload goes on where it ended, and the content is the same."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.faults.bench import NEVER, Bench, asked, sealed_bundle
from tests.faults.hosts import Host
from tests.faults.proxy import Fault, Proxy

SIZE = 6 << 20
OVERHEAD = SIZE // 50 + (96 << 10)  # records of TLS, and handshakes and headers of a few connections


@pytest.mark.parametrize("cuts", [(3 << 20,), (1 << 20, 1 << 20, 1 << 20)])
def test_case_01_a_cut_blob_is_resumed_and_whole(
    bench: Bench, line: Proxy, host: Host, tmp_path: Path, image: Path, cuts: tuple[int, ...]
) -> None:
    content = os.urandom(SIZE)
    digest = hashlib.sha256(content).hexdigest()
    bundle = sealed_bundle(tmp_path / "large", content)
    line.plan(*(Fault(cut_after=place) for place in cuts))
    with host.open() as device:
        answered = device.answer(bundle, asked(image), cancel=NEVER)
    assert answered.answers[0].text.split()[1] == digest  # as the runner read it
    assert hashlib.sha256(bench.blob(digest).read_bytes()).hexdigest() == digest
    assert line.connections > len(cuts)
    assert SIZE < line.up < SIZE + OVERHEAD
    assert len(bench.executions()) == 1
