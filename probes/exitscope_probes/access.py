"""What the guest wanted to do with a page, out of the code that came with its fault: the mirror of bpf/access.h."""

import platform
from contextlib import suppress
from pathlib import Path
from typing import Final

from .records import ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE

# Exit qualification of an EPT violation (arch/x86/include/asm/vmx.h): bit -> access.
_EPT: Final = {1 << 0: ACCESS_READ, 1 << 1: ACCESS_WRITE, 1 << 2: ACCESS_EXEC}
# Page fault error code (arch/x86/include/asm/kvm_host.h).
_PFERR_WRITE, _PFERR_FETCH = 1 << 1, 1 << 4

_MODULES: Final = Path("/sys/module")


def page_fault_is_vmx(modules: Path = _MODULES) -> bool:
    """Whether kvm:kvm_page_fault carries EPT exit qualifications here: kvm_intel is loaded and has EPT enabled.

    With ept=0 its shadow paging passes ordinary page fault error codes, like kvm_amd with and without NPT.
    """
    try:
        return (modules / "kvm_intel" / "parameters" / "ept").read_text().strip() in ("Y", "1")
    except OSError:
        return False


def two_stage_paging(modules: Path = _MODULES) -> bool:
    """Whether KVM maps guest-physical addresses in hardware, so that its page faults name a gpa, not a gva.

    EPT and NPT can be off; arm64 has nothing else.
    """
    if platform.machine() == "aarch64":
        return True
    for parameter in ("kvm_intel/parameters/ept", "kvm_amd/parameters/npt"):
        with suppress(OSError):
            if (modules / parameter).read_text().strip() in ("Y", "1"):
                return True
    return False


def access_of(error_code: int, is_vmx: bool) -> int:
    """ACCESS_* bits of a fault. is_vmx: the code is an EPT exit qualification, else a page fault error code."""
    if is_vmx:
        return sum(access for bit, access in _EPT.items() if error_code & bit)
    if error_code & _PFERR_FETCH:
        return ACCESS_EXEC
    return ACCESS_WRITE if error_code & _PFERR_WRITE else ACCESS_READ
