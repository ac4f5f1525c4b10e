"""Writes docs/slow-tests.md with what the slow tier found: each test, its outcome and seconds, date and commit.

Tests that did not run keep the line of when they last did; tests that are no more lose it.
"""

import datetime
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "slow-tests.md"
REPORTS = pytest.StashKey[dict[str, tuple[str, float]]]()
HEAD = """# The slow tier

Tests that take too long for `make test`. `make test-slow` runs them and writes this page; seconds are of {cores} cores
that may have had other work.

| Test | Outcome | Seconds | Date | Commit |
| --- | --- | --- | --- | --- |
"""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[REPORTS] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if item.path.parent == Path(__file__).parent and (report.when == "call" or report.outcome != "passed"):
        item.config.stash[REPORTS][item.name] = (report.outcome, report.duration)
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    found = session.config.stash[REPORTS]
    if not found:
        return
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=PAGE.parent, check=False
    ).stdout.strip()
    sources = "\n".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    before = {line.split(" | ")[0].removeprefix("| "): line for line in PAGE.read_text(encoding="utf-8").splitlines()}
    rows = {
        title: line
        for title, line in before.items()
        if title.startswith("test ")
        and line.count(" | ") == 4
        and f"def {title.split('[')[0].replace(' ', '_')}(" in sources
    }
    today = datetime.date.today().isoformat()
    for name, (outcome, seconds) in found.items():
        function, bracket, rest = name.partition("[")
        title = function.replace("_", " ") + bracket + rest.replace("|", "/")
        rows[title] = f"| {title} | {outcome} | {seconds:.0f} | {today} | {commit} |"
    lines = [rows[title] for title in sorted(rows)]
    PAGE.write_text(HEAD.format(cores=os.cpu_count()) + "\n".join(lines) + "\n", encoding="utf-8")
