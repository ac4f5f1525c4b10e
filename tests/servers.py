"""Servers that a device's configuration starts: the example's, on the tiny checkpoint, and whatever a test writes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

SERVER = Path(__file__).resolve().parent.parent / "examples" / "servers" / "transformers_server.py"
TINY = {"command": [sys.executable, str(SERVER), "{model}", "--port", "{port}"], "start_s": 60}

Configured: TypeAlias = Callable[..., Path]


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Configured:
    """Writes ``servers.json`` of the device that runs the tests; gives its path."""

    def write(**servers: Any) -> Path:
        state = tmp_path / "state"
        state.mkdir(exist_ok=True)
        monkeypatch.setenv("VLMFRONT_AGENT_STATE", str(state))
        path = state / "servers.json"
        path.write_text(json.dumps(servers))
        return path

    return write


@pytest.fixture
def tiny_server(configured: Configured) -> str:
    """The name of a real server, for folders in LLaVA layout."""
    configured(tiny=TINY)
    return "tiny"
