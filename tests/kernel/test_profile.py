"""The profile of the kernel that runs the tests, and what it says against what KVM itself says."""

import fcntl
import os

import pytest

from exitscope_probes.btf import KernelBtf
from exitscope_probes.profiles import recognise

pytestmark = pytest.mark.needs("root", "bpf", "kvm")

KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_FAULT_INFO = 0xAE03, 232  # include/uapi/linux/kvm.h


def test_this_kernel_is_upstream() -> None:
    """KVM says whether it can name the page of a fault; none of the kernels that we test has one of the series."""
    fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    try:
        names_the_page = fcntl.ioctl(fd, KVM_CHECK_EXTENSION, KVM_CAP_MEMORY_FAULT_INFO) == 1
    finally:
        os.close(fd)
    assert recognise(KernelBtf()).name == ("memory-fault" if names_the_page else "bare-efault")


def test_parameters_of_a_kernel_function() -> None:
    """What a profile may look for: not types, which two series can share."""
    assert KernelBtf().function_parameters("handle_userfault") == ("vmf", "reason")
    assert KernelBtf().function_parameters("no_such_function") is None
