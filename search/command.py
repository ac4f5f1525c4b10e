"""The command ``vlmfront`` where only a device's packages are installed: one sentence, not a traceback."""

import sys


def main() -> None:
    """Run the command line, or say with exit code 2 what has to be installed first."""
    try:
        from search.cli import main as run
    except ModuleNotFoundError as error:
        print(f"vlmfront: {error.name} is not installed; pip install 'vlmfront[search]'.", file=sys.stderr)
        sys.exit(2)
    run()
