import subprocess
import sys
from pathlib import Path

import pytest

from hardware_profiles.agent.machine import program, snapshot


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("mysql -pSECRET", "mysql"),
        ("/usr/bin/mysql --password SECRET", "mysql"),
        ("/usr/bin/python3.11 -uB /home/SECRET/train.py --key SECRET", "python3.11 train.py"),
        ("python train.py SECRET", "python train.py"),
        ("python -W SECRET train.py", "python"),
        ("python -c SECRET", "python"),
        ("python -uc SECRET", "python"),
        ("python", "python"),
        ("bash -O SECRET run.sh", "bash"),
        ("sh -c SECRET", "sh"),
        ("/bin/sh /opt/run.sh SECRET", "sh run.sh"),
        ("node server.js SECRET", "node server.js"),
        ("pythonic SECRET", "pythonic"),
        ("sudo mysql -pSECRET", "sudo"),
    ],
)
def test_of_a_command_line_program_and_script_are_told(arguments: str, told: str) -> None:
    assert program([*arguments.split(), ""]) == told


def test_a_title_that_a_process_gave_itself_is_cut_at_its_first_word() -> None:
    assert program(["postgres: SECRET db 10.0.0.1(5432) SELECT"]) == "postgres"
    assert program(["/opt/chrome/chrome --type=SECRET/x", "", ""]) == "chrome"
    assert program([""]) == program([" "]) == ""


def test_a_snapshot_has_no_arguments_of_other_processes() -> None:
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "SECRET"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout
        child.stdout.read(1)
        task = snapshot(Path("/"), 0).tasks[child.pid]
        child.kill()
    assert (task.command, task.whose) == (Path(sys.executable).name, "other")
