"""Calls into libc for which Python has no function."""

import ctypes
import os
import signal
from typing import Any, Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_PRCTL: Final = _LIBC.prctl  # looked up here: after a fork nothing that takes a lock may be called
_PR_SET_PDEATHSIG: Final = 1  # include/uapi/linux/prctl.h


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process a signal when the thread that started it ends; also right after a fork."""
    _PRCTL(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def libc(function: str, *arguments: Any, result: Any = ctypes.c_int) -> int:
    """What a function returns; result: its C type. Raises OSError where that is -1. Integers are passed as int."""
    called = _LIBC[function]  # an object of its own each time, so that its type is nobody else's
    called.restype = result
    returned = called(*arguments)
    if returned == ctypes.c_void_p(-1).value or returned == -1:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return int(returned or 0)


def system_call(number: int, *arguments: Any) -> int:
    """What a system call returns. Raises OSError. Integers are passed as int."""
    return libc("syscall", ctypes.c_long(number), *arguments, result=ctypes.c_long)
