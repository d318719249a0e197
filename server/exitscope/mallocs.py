"""What the process holds of memory that it has given back: little, so that its size says what it needs."""

import ctypes

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h of glibc


def give_back_early() -> None:
    """From now on two heaps for all threads, and large blocks are the kernel's again when they are freed.

    Else every thread has a heap of its own, and glibc keeps up to 64 MB of each for later. Without glibc nothing
    changes. To be called before threads start.
    """
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what it has had
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 2)
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_TRIM_THRESHOLD, 8 << 20)


def give_back() -> None:
    """What is free between blocks in use becomes the kernel's again: after work that took much for a while.

    Without glibc nothing happens. It takes some ms, and longer where there is much; others who allocate wait.
    """
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
