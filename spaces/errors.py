"""What goes wrong for a user: input that is refused before work, and a trial that fails with a reason."""

from spaces.printable import printable

_MOST = 990


class BadInput(Exception):
    """Input that is refused before any work starts (exit code 2).

    The message is one sentence that names the file, line or field and says how to mend it. What it quotes may come from
    anywhere, so it is kept on one line, without control characters, and is cut in the middle where it is very long.
    """

    def __init__(self, message: str) -> None:
        line = printable(message, len(message))
        super().__init__(line if len(line) <= _MOST else f"{line[: _MOST * 3 // 4]} … {line[-_MOST // 5 :]}")


class StageFailed(Exception):
    """A stage could not be built or did not pass its gate: the trial fails with this reason, the search goes on."""
