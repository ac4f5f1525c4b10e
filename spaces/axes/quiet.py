"""Silence and isolation for the libraries behind the axes: no telemetry, no network, nothing printed."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from spaces.signal_stack import kept_signal_stack
from spaces.telemetry import stop_telemetry


@contextmanager
def quiet(*libraries: str) -> Iterator[None]:
    """Imports the named libraries and runs the body without telemetry, network, progress bars, warnings or log lines.

    OpenVINO's telemetry does not only phone home: its threads make a conversion several times slower.
    """
    _stay_offline()
    stop_telemetry()
    with kept_signal_stack(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for library in libraries:
            import_module(library)
        loggers = [logging.getLogger(library.partition(".")[0]) for library in libraries]
        levels = [logger.level for logger in loggers]
        root, silent = logging.getLogger(), logging.NullHandler()
        root.addHandler(silent)
        root.addFilter(_refused)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        _hide_progress({library.partition(".")[0] for library in libraries})
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            root.removeFilter(_refused)
            root.removeHandler(silent)


def _refused(record: logging.LogRecord) -> bool:  # noqa: ARG001
    """A filter for what OpenVINO's converter logs on the root logger itself, which has no name to silence it by."""
    return False


def _stay_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _hide_progress(libraries: set[str]) -> None:
    if "transformers" in libraries:
        import_module("transformers.utils.logging").disable_progress_bar()
    if "nncf" in libraries:
        tracking = import_module("nncf.common.logging.track_progress")
        for name in ("Progress", "WeightedProgress"):
            setattr(tracking, name, _hidden(getattr(tracking, name)))


def _hidden(progress: Any) -> Any:
    if getattr(progress, "hidden", False):
        return progress

    class Hidden(progress):  # type: ignore[misc]
        hidden = True

        def __init__(self, *columns: Any, **settings: Any) -> None:
            super().__init__(*columns, **{**settings, "disable": True})

    return Hidden
