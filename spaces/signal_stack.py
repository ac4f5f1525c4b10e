"""A guard against a crash that OpenVINO prepares for the next signal."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _SignalStack(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def kept_signal_stack() -> Iterator[None]:
    """Puts the thread's alternate signal stack back as it was (Linux; nothing elsewhere).

    Compiling a model, OpenVINO's CPU plugin (2026.4) gives the thread a signal stack in memory that it frees later: the
    next signal with a Python handler, such as Ctrl-C, then ends the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    before = _SignalStack()
    libc.sigaltstack(None, ctypes.byref(before))
    try:
        yield
    finally:
        libc.sigaltstack(ctypes.byref(before), None)
