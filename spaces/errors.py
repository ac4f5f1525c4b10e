"""What goes wrong for a user: input that is refused before work, and a trial that fails with a reason."""


class BadInput(Exception):
    """Input that is refused before any work starts (exit code 2).

    The message is one sentence that names the file, line or field and says how to mend it.
    """


class StageFailed(Exception):
    """A stage could not be built or did not pass its gate: the trial fails with this reason, the search goes on."""
