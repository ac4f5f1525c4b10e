"""Case 4: the reply to a call is lost. The call is made again under the same name, and nothing happens twice."""

from pathlib import Path
from typing import Any

import pytest

from hardware_profiles.devices.connection import Answer, Connection, Unreachable
from tests.faults.bench import NEVER, Bench, asked
from tests.faults.hosts import Host
from tests.faults.proxy import Proxy

LOST = ["PUT /v1/leases/", "PATCH /v1/blobs/", "PUT /v1/blobs/", "PUT /v1/jobs/", "GET /v1/jobs/", "acknowledged"]


@pytest.mark.parametrize("lost", LOST)
def test_case_04_a_lost_reply_makes_nothing_happen_twice(
    bench: Bench, line: Proxy, host: Host, bundle: Path, image: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    once, calls = Connection.once, []
    state: dict[str, Any] = {"uploaded": False, "lost": 0}

    def losing(self: Connection, method: str, path: str, **given: Any) -> Answer:
        call = f"{method} {path}"
        state["uploaded"] |= call.startswith("PUT /v1/blobs/")
        submits = lost == "PUT /v1/jobs/" and not path.endswith("acknowledged")
        if not state["lost"] and lost in call and (not submits or state["uploaded"]):
            state["lost"] += 1
            line.lose_next_reply()
            with pytest.raises(Unreachable):
                once(self, method, path, **given)
            raise Unreachable("the reply was lost")
        calls.append(call)
        return once(self, method, path, **given)

    monkeypatch.setattr(Connection, "once", losing)
    with host.open() as device:
        text = device.answer(bundle, asked(image), cancel=NEVER).answers[0].text
    assert state["lost"] == 1
    assert [f"{one.pid}" for one in bench.executions()] == [text.split()[0]]
    assert len({call for call in calls if call.startswith("PUT /v1/jobs/") and "acknowledged" not in call}) == 1
    assert list((bench.state / "jobs").iterdir()) == []  # acknowledged
