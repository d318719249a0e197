"""Each kernel profile is told apart by what its patches add to BTF, however its numbers collide with another's."""

import pytest

from exitscope_probes import profiles
from exitscope_probes.btf import BtfError, KernelBtf
from exitscope_probes.profiles import PROFILES, UNKNOWN, described, of_this_kernel, recognise

BARE = {"kvm_run.exit_reason", "kvm_memory_slot.flags", "kvm_vcpu.run", "kvm.mm"}
LEN = BARE | {f"kvm_run.memory_fault{field}" for field in ("", ".flags", ".gpa", ".len")}
SIZE = BARE | {f"kvm_run.memory_fault{field}" for field in ("", ".flags", ".gpa", ".size")}
BITMAP = SIZE | {"kvm_memory_slot.userfault_bitmap"}
MEMSLOT = ("slot", "gfn", "atomic", "interruptible", "async", "write_fault", "writable", "hva")


class Kernel:
    """BTF with these members and functions only."""

    def __init__(self, members: set[str], functions: dict[str, tuple[str, ...]] | None = None) -> None:
        self.members, self.functions = members, functions or {}

    def offset(self, path: str) -> int | None:
        return 0 if path in self.members else None

    def function(self, name: str) -> tuple[str, int] | None:
        return ("kvm", 7) if name in self.functions else None

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        return self.functions.get(name)


USERFAULT_ARGUMENTS = ("kvm", "memslot", "gfn")
KERNELS = {
    "bare-efault": Kernel(BARE, {"__gfn_to_pfn_memslot": MEMSLOT}),
    "memory-fault": Kernel(SIZE, {"__gfn_to_pfn_memslot": MEMSLOT}),
    "absent-mapping-v2": Kernel(LEN | {"kvm.memfault_exit_reasons"}, {"kvm_memfault_exit_or_efault": ("vcpu",)}),
    "absent-mapping-v3": Kernel(LEN | {"kvm.fill_efault_info"}, {"kvm_populate_efault_info": ("vcpu", "gpa", "len")}),
    "nowait-on-fault": Kernel(LEN, {"kvm_populate_efault_info": ("vcpu", "gpa", "len", "flags")}),
    "userfault-on-missing": Kernel(LEN | {"kvm_vcpu.speculative_exit_canary"}),
    "exit-on-missing": Kernel(SIZE, {"__gfn_to_pfn_memslot": (*MEMSLOT[:-1], "can_exit_on_missing", "hva")}),
    "userfault-rfc": Kernel(SIZE | {"kvm.userfault_ctx"}),
    "userfault-v1-v2": Kernel(BITMAP, {"kvm_gfn_userfault": USERFAULT_ARGUMENTS}),
    "userfault-v3": Kernel(BITMAP, {"kvm_do_userfault": ("vcpu", "fault")}),
    "userfault-hiding": Kernel(BITMAP, {"kvm_gfn_userfault": USERFAULT_ARGUMENTS, "folio_zap_direct_map": ("folio",)}),
    "unknown-memory-fault": Kernel(BARE | {"kvm_run.memory_fault"}),
}


@pytest.mark.parametrize("name", KERNELS)
def test_recognised_by_what_its_patches_add(name: str) -> None:
    profile = recognise(KERNELS[name])
    assert profile.name == name
    assert all(mark.is_in(KERNELS[name]) for mark in profile.marks)


def test_every_profile_has_its_kernel_here() -> None:
    assert sorted(KERNELS) == sorted(profile.name for profile in PROFILES)


def test_direct_map_removal_alone_is_no_userfault() -> None:
    """Part of the branch may go upstream before the rest."""
    assert recognise(Kernel(SIZE, {"folio_zap_direct_map": ("folio",)})).name == "memory-fault"


def test_a_kernel_that_says_nothing() -> None:
    assert recognise(Kernel(set())) is UNKNOWN
    assert described(UNKNOWN)["evidence"] == []


def test_numbers_collide_and_names_do_not() -> None:
    """Why nothing is looked up by a number."""
    names_of_236 = {name for profile in PROFILES for number, name in profile.capabilities if number == 236}
    assert names_of_236 == {"USERFAULT", "EXIT_ON_MISSING"}
    bit_0 = {name for profile in PROFILES for bit, name in profile.exit_flags if bit == 0}
    assert bit_0 == {"READ", "WRITE", "UNKNOWN"}
    assert {profile.exit_reason for profile in PROFILES} == {38, 39, None}


def test_plain_data() -> None:
    told = of_this_kernel(KERNELS["userfault-v3"])
    assert told["name"] == "userfault-v3"
    assert told["evidence"] == ["member kvm_memory_slot.userfault_bitmap", "function kvm_do_userfault"]
    assert told["exit_flags"] == {"3": "PRIVATE", "4": "USERFAULT"}
    assert told["capabilities"]["243"] == "KVM_CAP_USERFAULT"
    assert told["memslot_flags"] == {"3": "KVM_MEM_USERFAULT"}


def test_no_btf_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> KernelBtf:
        raise BtfError("no BTF", "get some")

    monkeypatch.setattr(profiles, "KernelBtf", fails)
    assert of_this_kernel()["name"] == "unknown"
