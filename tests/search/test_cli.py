import json
import os
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from hardware_profiles.bundle import Execution, seal
from search import session
from search.cli import ROOMS, foreign_room, main
from search.command import lacking
from spaces.prompting import Prompt

VLMFRONT = str(Path(sys.executable).with_name("vlmfront"))
HOME = str(Path(__file__).resolve().parents[2])


def test_our_own_rooms_are_no_clash() -> None:
    assert foreign_room() is None


@pytest.mark.parametrize("room", ROOMS)
def test_a_foreign_package_of_a_rooms_name_is_named(room: str) -> None:
    def locate(name: str) -> str | None:
        return "/elsewhere/site-packages" if name == room else HOME

    sentence = foreign_room(locate)
    assert sentence is not None
    assert f"'{room}'" in sentence
    assert "/elsewhere/site-packages" in sentence
    assert "environment of its own" in sentence


def test_another_spaces_in_the_way_ends_the_command_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "spaces").mkdir()
    (tmp_path / "spaces" / "__init__.py").write_text("def GPU(function):\n    return function\n")
    done = subprocess.run(
        [VLMFRONT, "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "'spaces'" in done.stderr


def test_rooms_below_search_load_no_heavy_library() -> None:
    heavy = "torch", "transformers", "openvino", "optuna", "nncf", "plotly"
    code = f"import sys, spaces.plugins, hardware_profiles.agent.supervisor, hardware_profiles.runtimes, \
objectives.run, reports.html, reports.pick, search.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_folder_called_search_where_the_user_stands_shadows_nothing(
    tiny_openvino: Path, tiny_images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hardware_profiles.agent.supervisor import run_job
    from hardware_profiles.messages import Answered, Job, Request

    bundle = tmp_path / "bundle"
    bundle.mkdir()
    for path in tiny_openvino.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    seal(
        bundle,
        runtime="openvino",
        prompt=Prompt(),
        max_new_tokens=2,
        execution=Execution(),
        candidate={},
        provenance={},
    )
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    request = Request(id="1", image=str(tiny_images[0]), question="what colour is this ?")
    result = run_job(Job(kind="answer", bundle=str(bundle), requests=(request,)))
    assert isinstance(result, Answered)
    assert [answer.id for answer in result.answers] == ["1"]
    done = subprocess.run([VLMFRONT, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_schema_is_printed_as_json() -> None:
    done = subprocess.run([VLMFRONT, "schema", "space"], capture_output=True, text=True, check=True)
    assert "quantization" in json.loads(done.stdout)["properties"]["axes"]["properties"]


@pytest.mark.parametrize("verb", ["search", "report", "pick", "export", "run"])
def test_every_verb_has_help_with_an_example_and_json(verb: str) -> None:
    done = subprocess.run([VLMFRONT, verb, "--help"], capture_output=True, text=True, check=True)
    assert f"Example: vlmfront {verb}" in done.stdout
    assert "--json" in done.stdout


def test_an_unwritable_pipe_is_no_traceback(project: Callable[..., Path]) -> None:
    command = f"{VLMFRONT} --help | head -c 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr


def test_an_output_that_takes_no_more_ends_in_a_sentence() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [VLMFRONT, "schema", "space"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    said = "the disk of the run, the store or the output: No space left on device; nothing that was finished is lost."
    assert done.stderr.splitlines() == [f"vlmfront: {said}"]


@pytest.mark.parametrize(
    ("package", "arguments", "extra"),
    [
        ("typer", ["--help"], "host"),
        ("typer", ["run", "deploy/", "--image", "a.png"], "host"),
        ("openvino_genai", ["run", "deploy/"], "device,host"),
        ("torch", ["run", "deploy/"], "search"),
        ("httpx", ["device", "check", "pi"], "host"),
        ("plotly", ["report", "runs/x"], "host,report"),
        ("optuna", ["search", "search.yaml"], "search"),
        ("optuna", ["pick", "runs/x"], "search"),
    ],
)
def test_what_is_not_installed_is_named_with_the_least_extra(package: str, arguments: list[str], extra: str) -> None:
    sentence = lacking(package, arguments)
    assert sentence.startswith(f"{package} is not installed")
    assert sentence.endswith(f"pip install '.[{extra}]'")
    with (Path(HOME) / "pyproject.toml").open("rb") as file:
        known = tomllib.load(file)["project"]["optional-dependencies"]
    assert set(extra.split(",")) <= known.keys()


def test_without_typer_the_command_ends_with_a_sentence() -> None:
    code = "import sys; sys.modules['typer'] = None; sys.argv = ['vlmfront', 'run', 'x']; import search.command as c; \
c.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=HOME)
    assert done.returncode == 2
    assert done.stderr == f"vlmfront: {lacking('typer', ['run'])}\n"


def test_ctrl_c_before_a_search_began_says_that_nothing_was_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def queued(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(session, "prepare", queued)
    monkeypatch.setattr(sys, "argv", ["vlmfront", "search", "search.yaml"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    said = capsys.readouterr().err
    assert said == "vlmfront: interrupted before the search began: nothing was done, and the same command starts it.\n"
