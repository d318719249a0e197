"""Calls into libc for which Python has no function."""

import ctypes
import os
from typing import Any, Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)


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
