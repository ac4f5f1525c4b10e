"""Found on PYTHONPATH by every process of a search that runs under faults."""

from inject import from_environment  # type: ignore[import-not-found]

from_environment()
