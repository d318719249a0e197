"""arm64's own programs, compiled and put before this machine's verifier; attached they cannot be, here."""

import os
from collections.abc import Iterator

import pytest

from exitscope_probes import compiler, hooks, hooks_arm64
from exitscope_probes.btf import KernelBtf
from exitscope_probes.maps import Maps
from exitscope_probes.programs import (
    KPROBE,
    RAW_TRACEPOINT,
    TRACE_FENTRY,
    TRACE_FEXIT,
    TRACING,
    checked_load,
    module_btf_fd,
)

pytestmark = pytest.mark.needs("root", "bpf")

A_FUNCTION_OF_A_VCPU = "kvm_arch_vcpu_ioctl_run"  # takes a struct kvm_vcpu *, as kvm_handle_guest_abort does there


def programs(table: tuple[hooks.Hook, ...]) -> dict[str, str]:
    """Program -> how it is attached."""
    attachments = [made for hook in table for one in hook.candidates for made in one.attachments]
    return {made.program: made.via for made in attachments}


OWN = {name: via for name, via in programs(hooks_arm64.HOOKS).items() if name not in programs(hooks.HOOKS)}


@pytest.fixture(scope="module")
def btf() -> KernelBtf:
    return KernelBtf()


@pytest.fixture(scope="module")
def code(btf: KernelBtf) -> Iterator[dict[str, bytes]]:
    """Words of an x86 vCPU stand for the syndrome and the address of the abort."""
    maps = Maps(1 << 16, 16, 16)
    places = {"OFF_VCPU_ESR": "kvm_vcpu.arch.efer", "OFF_VCPU_HPFAR": "kvm_vcpu.arch.apic_base"}
    defines = compiler.defines(btf) | maps.defines() | {name: btf.offset(path) or 0 for name, path in places.items()}
    compiled = compiler.compile_probes(defines, OWN)
    yield {name: maps.relocate(code) for name, code in compiled.items()}
    maps.close()


def test_arm64_has_programs_of_its_own() -> None:
    assert OWN == {
        "fentry_guest_abort": "fentry",
        "kprobe_guest_abort": "kprobe",
        "on_guest_fault": "raw_tracepoint",
        "fexit_guest_abort": "fexit",
        "on_guest_entry": "raw_tracepoint",
    }


@pytest.mark.parametrize("name", [name for name, via in OWN.items() if via in ("kprobe", "raw_tracepoint")])
def test_the_verifier_takes_it(code: dict[str, bytes], name: str) -> None:
    kind = KPROBE if OWN[name] == "kprobe" else RAW_TRACEPOINT
    os.close(checked_load(kind, name, code[name]))


@pytest.mark.needs("fentry")
@pytest.mark.parametrize("name", [name for name, via in OWN.items() if via in ("fentry", "fexit")])
def test_the_verifier_takes_it_typed(btf: KernelBtf, code: dict[str, bytes], name: str) -> None:
    found = btf.function(A_FUNCTION_OF_A_VCPU)
    assert found is not None
    module_fd = module_btf_fd(found[0])
    kind = TRACE_FENTRY if OWN[name] == "fentry" else TRACE_FEXIT
    typed = {"expected_attach_type": kind, "attach_btf_id": found[1], "attach_btf_obj_fd": module_fd}
    try:
        os.close(checked_load(TRACING, name, code[name], **typed))
    finally:
        if module_fd:
            os.close(module_fd)
