"""Small readings of sysfs and of a board's own tools: a value, or null where it is not to be had."""

import subprocess
from pathlib import Path

TOOL_S = 2.0  # that a board's own tool may take


def text(path: Path) -> str:
    """What is in a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def first_line(path: Path) -> str:
    """The first line of a file; empty where it cannot be read."""
    return text(path).partition("\n")[0].strip()


def number(path: Path) -> int | None:
    """The whole number in a file; null where there is none."""
    try:
        return int(first_line(path))
    except ValueError:
        return None


def entries(folder: Path) -> list[Path]:
    """What is in a folder, by name; nothing where it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def run_tool(tool: Path, *arguments: str) -> str:
    """What a tool prints; empty where it is not there, fails or hangs."""
    if not tool.is_file():
        return ""
    try:
        done = subprocess.run([str(tool), *arguments], capture_output=True, text=True, timeout=TOOL_S)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout if done.returncode == 0 else ""
