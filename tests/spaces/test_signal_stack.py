import ctypes
import sys
from pathlib import Path

import pytest

from spaces.signal_stack import kept_signal_stack

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such stack")


class _Stack(ctypes.Structure):
    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


def _stack() -> tuple[int | None, int, int]:
    stack = _Stack()
    ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack))
    return stack.pointer, stack.flags, stack.size


def test_the_stack_is_put_back_after_openvino_compiled(tiny_openvino: Path) -> None:
    import openvino

    before = _stack()
    with kept_signal_stack():
        openvino.Core().compile_model(tiny_openvino / "openvino_vision_embeddings_model.xml", "CPU")
    assert _stack() == before


def _break_off_with(stack: _Stack) -> None:
    with kept_signal_stack():
        ctypes.CDLL(None).sigaltstack(ctypes.byref(stack), None)
        raise ZeroDivisionError


def test_the_stack_is_put_back_after_an_error() -> None:
    memory = ctypes.create_string_buffer(1 << 16)
    before = _stack()
    with pytest.raises(ZeroDivisionError):
        _break_off_with(_Stack(ctypes.addressof(memory), 0, len(memory)))
    assert _stack() == before
