"""Run time of BPF programs, from the kernel's own statistics (enum bpf_stats_type, include/uapi/linux/bpf.h)."""

import ctypes
import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench.figure import BenchError

_BPF_ENABLE_STATS = 32
_NR_BPF = {"x86_64": 321, "aarch64": 280}


class RunTime(NamedTuple):
    """Of one program, since it was loaded and while statistics were on."""

    name: str
    run_time_ns: int
    runs: int


@contextmanager
def statistics() -> Iterator[None]:
    """What the sysctl kernel.bpf_stats_enabled does, but the kernel itself ends it with this process."""
    attributes = (ctypes.c_uint32 * 32)()  # its type is 0, BPF_STATS_RUN_TIME
    libc = ctypes.CDLL(None, use_errno=True)
    number = _NR_BPF[platform.machine()]
    fd = libc.syscall(number, _BPF_ENABLE_STATS, ctypes.byref(attributes), ctypes.sizeof(attributes))
    if fd < 0:
        raise BenchError(f"BPF statistics: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        os.close(fd)


def programs_of(pid: int) -> set[int]:
    """Ids of the programs that a process holds."""
    ids = set()
    for fd in Path(f"/proc/{pid}/fdinfo").iterdir():
        try:
            found = re.search(r"^prog_id:\s*(\d+)", fd.read_text(), re.MULTILINE)
        except OSError:  # closed meanwhile
            continue
        if found:
            ids.add(int(found[1]))
    return ids


def run_times(ids: set[int]) -> dict[int, RunTime]:
    """{program id: its run time}."""
    listing = subprocess.run(["bpftool", "-j", "prog", "show"], capture_output=True, timeout=30, check=True).stdout
    return {
        program["id"]: RunTime(program.get("name", "?"), program.get("run_time_ns", 0), program.get("run_cnt", 0))
        for program in json.loads(listing)
        if program["id"] in ids
    }
