"""Writes docs/slow-tests.md with what the slow tier found: each test, its outcome and seconds, date and commit."""

import datetime
import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "slow-tests.md"
REPORTS = pytest.StashKey[dict[str, tuple[str, float]]]()


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
    rows = [f"| {name.replace('_', ' ')} | {outcome} | {seconds:.0f} |" for name, (outcome, seconds) in found.items()]
    lines = [
        "# The slow tier",
        "",
        "Tests that take too long for `make test`. `make test-slow` runs them and writes this page.",
        "",
        f"Latest results: {datetime.date.today().isoformat()}, on commit {commit}, {os.cpu_count()} cores.",
        "",
        "| Test | Outcome | Seconds |",
        "| --- | --- | --- |",
        *rows,
        "",
    ]
    PAGE.write_text("\n".join(lines), encoding="utf-8")
