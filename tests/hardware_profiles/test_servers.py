"""The device's own list of servers: what is read of it, how a command is filled in, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hardware_profiles.agent import servers
from hardware_profiles.agent.servers import find_server, handed_down, read_servers
from spaces.errors import BadInput
from tests.servers import Configured

LLAMA: dict[str, Any] = {
    "command": ["llama-server", "-m", "{model}", "--mmproj={mmproj}", "--host", "127.0.0.1", "--port", "{port}"],
    "ready": "/health",
    "model": "any",
    "start_s": 30,
    "request": {"cache_prompt": False},
}
VLLM = ["vllm", "serve", "{bundle}", "--port", "{port}", "--limit-mm-per-prompt", '{"image": 3}', "{model}{model}"]


def test_a_command_is_filled_in_item_by_item(configured: Configured, tmp_path: Path) -> None:
    configured(llama=LLAMA, vllm={"command": VLLM})
    bundle = tmp_path / "a b; rm {port}"
    bundle.mkdir()
    for name in ("mmproj-f16.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "config.json"):
        (bundle / name).touch()
    model, projector = f"{bundle}/m-00001-of-00002.gguf", f"{bundle}/mmproj-f16.gguf"
    wanted = ["llama-server", "-m", model, f"--mmproj={projector}", "--host", "127.0.0.1", "--port", "81"]
    llama = find_server("llama")
    assert llama.line(bundle, 81) == wanted
    assert (llama.ready, llama.model, llama.start_s, llama.request) == ("/health", "any", 30.0, {"cache_prompt": False})
    vllm = find_server("vllm")
    assert vllm.line(bundle, 81)[5:] == ["--limit-mm-per-prompt", '{"image": 3}', model + model]
    assert (vllm.ready, vllm.model, vllm.start_s, vllm.request) == ("/health", "vllm", 120.0, {"cache_prompt": False})
    for path in bundle.glob("*.gguf"):
        path.unlink()
    assert vllm.line(bundle, 81)[7] == f"{bundle}{bundle}"


@pytest.mark.parametrize(
    ("files", "words"),
    [(("a.gguf", "b.gguf", "mmproj.gguf"), r"a\.gguf and b\.gguf"), (("a.gguf",), r"0 files named \*mmproj\*")],
)
def test_a_bundle_that_a_command_does_not_fit_is_refused(
    configured: Configured, tmp_path: Path, files: tuple[str, ...], words: str
) -> None:
    configured(llama=LLAMA)
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(BadInput, match=words):
        find_server("llama").line(tmp_path, 1)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"command": "llama-server --port {port}"}, r"llama\.command: a list of texts"),
        ({"command": []}, r"llama\.command: a list"),
        ({"command": ["run", 7, "{port}"]}, r"llama\.command: a list"),
        ({"command": ["run", "{ports}"]}, r"llama\.command: \{ports\} is no placeholder"),
        ({"command": ["run", "{model}"]}, r"llama\.command: \{port\} is missing"),
        ({"command": ["{bundle}/server", "{port}"]}, r"llama\.command: the program comes from this device"),
        ({"ready": "health"}, r"llama\.ready: a path"),
        ({"model": 3}, r"llama\.model: a text"),
        ({"start_s": 0}, r"llama\.start_s: a number"),
        ({"start_s": True}, r"llama\.start_s: a number"),
        ({"start_s": "10"}, r"llama\.start_s: a number"),
        ({"request": {"max_tokens": 9}}, r"llama\.request: an object without .*max_tokens"),
        ({"env": {}}, r"llama\.env is no field"),
    ],
)
def test_a_wrong_field_is_named_with_its_file(configured: Configured, change: dict[str, Any], words: str) -> None:
    path = configured(llama=LLAMA | change)
    with pytest.raises(BadInput, match=words) as caught:
        read_servers()
    assert str(path) in str(caught.value)


@given(
    entry=st.fixed_dictionaries(
        {},
        optional={
            name: st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
                max_leaves=6,
            )
            for name in ("command", "ready", "model", "start_s", "request")
        },
    ),
    name=st.text(max_size=9),
)
def test_any_entry_is_taken_or_refused_in_one_sentence(entry: dict[str, Any], name: str) -> None:
    said = "servers.json: "
    try:
        servers._server(Path("servers.json"), name, entry)
    except BadInput as error:
        said = str(error)
    assert "\n" not in said
    assert said.removeprefix("'").removeprefix('"').startswith("servers.json: ")


def test_a_file_that_is_none_is_refused(configured: Configured) -> None:
    path = configured()
    for text, words in (("[]", "an object of servers"), ("{", "not JSON"), ('{"a b": {}}', "a name of 1 to 64")):
        path.write_text(text)
        with pytest.raises(BadInput, match=words):
            read_servers()
    path.write_bytes(b"\xff")
    with pytest.raises(BadInput, match="not UTF-8"):
        read_servers()
    path.write_text(json.dumps({"llama": LLAMA}))
    path.chmod(0o646)
    with pytest.raises(BadInput, match="written by anybody"):
        read_servers()
    path.unlink()
    assert read_servers() == {}
    with pytest.raises(BadInput, match=r"names no server 'llama' \(it has none\)"):
        find_server("llama")


def test_a_runner_knows_the_servers_without_the_file(configured: Configured, monkeypatch: pytest.MonkeyPatch) -> None:
    path = configured(llama=LLAMA)
    for name, value in handed_down().items():
        monkeypatch.setenv(name, value)
    path.unlink()
    assert list(read_servers()) == ["llama"]
    assert handed_down()
