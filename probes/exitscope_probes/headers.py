"""A small kernel header tree for bcc, for hosts without headers of the running kernel.

bcc wants `BCC_KERNEL_SOURCE` to look like a kernel tree. The probes define every kernel struct that they read by
BTF offsets, so a handful of typedefs on top of the distribution's userspace headers is enough, and quicker to
compile than the real ones.
"""

import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import ProbeError

_KCONFIG = """\
#define CONFIG_BPF_SYSCALL 1
#define __KERNEL__ 1
#include <linux/types.h>
typedef __u8 u8; typedef __s8 s8; typedef __u16 u16; typedef __s16 s16;
typedef __u32 u32; typedef __s32 s32; typedef __u64 u64; typedef __s64 s64;
typedef _Bool bool; typedef unsigned long size_t; typedef unsigned long uintptr_t; typedef int pid_t;
#define true 1
#define false 0
struct pt_regs { unsigned long word[21]; };
struct vm_fault;
"""
_ARCHITECTURES = {"x86_64": "x86", "aarch64": "arm64"}


def _asm_headers() -> Path:
    machine = platform.machine()
    for candidate in (Path(f"/usr/include/{machine}-linux-gnu/asm"), Path("/usr/include/asm")):
        if (candidate / "types.h").exists():
            return candidate
    raise ProbeError("no kernel userspace headers (asm/types.h)", "apt-get install linux-libc-dev")


def _build(tree: Path) -> None:
    uapi = tree / "include/uapi"
    for directory in ("include/linux", "include/asm", "include/uapi/linux", f"arch/{_arch()}/include"):
        (tree / directory).mkdir(parents=True)
    for header in Path("/usr/include/linux").iterdir():
        if header.name != "bpf.h":  # bcc brings its own
            (uapi / "linux" / header.name).symlink_to(header)
    (uapi / "linux/bpf.h").touch()
    (uapi / "asm").symlink_to(_asm_headers())
    (uapi / "asm-generic").symlink_to("/usr/include/asm-generic")
    (tree / "include/linux/log2.h").touch()
    (tree / "include/asm/page.h").write_text("#define PAGE_SIZE 4096UL\n")
    (tree / "include/linux/kconfig.h").write_text(_KCONFIG)


def _arch() -> str:
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


@contextmanager
def stub_tree() -> Iterator[Path]:
    """A directory for `BCC_KERNEL_SOURCE`, gone afterwards. Raises ProbeError without linux-libc-dev."""
    with tempfile.TemporaryDirectory(prefix="exitscope-headers-") as name:
        tree = Path(name)
        _build(tree)
        yield tree
