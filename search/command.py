"""The command ``vlmfront`` where not everything is installed: one sentence with what to install, not a traceback."""

import sys
from collections.abc import Sequence

_EXTRAS = dict.fromkeys(("", "run", "export", "device", "doctor", "schema"), "host") | {"report": "host,report"}
"""Verb -> the least extra of vlmfront that it needs beside a device's packages; ``search`` for those not named."""
_ENGINES = {"openvino": "device,host", "openvino_genai": "device,host", "torch": "search", "transformers": "search"}


def main() -> None:
    """Run the command line, or say with exit code 2 what has to be installed first."""
    try:
        from search.cli import main as run
    except ModuleNotFoundError as error:
        print(f"vlmfront: {lacking(error.name, sys.argv[1:])}", file=sys.stderr)
        sys.exit(2)
    run()


def lacking(package: str | None, arguments: Sequence[str]) -> str:
    """That a package is not there, and the least that is to be installed for the verb among the arguments."""
    verb = next((one for one in arguments if not one.startswith("-")), "")
    extra = _EXTRAS.get(verb, "search")
    if verb == "run":  # whose bundle may be of any engine
        extra = _ENGINES.get(str(package).partition(".")[0], extra)
    asked = f"vlmfront {verb}".rstrip()
    return f"{package} is not installed, which `{asked}` needs; in vlmfront's checkout: pip install '.[{extra}]'"
