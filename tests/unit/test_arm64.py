"""The arm64 hook table against what Debian's arm64 kernels show in their BTF (data/arm64/record.py)."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exitscope_probes import access, compiler, exit_reasons, formats, hooks, hooks_arm64, plan
from exitscope_probes.hooks import TRACEPOINTS, Strategy
from exitscope_probes.plan import Choice, choose
from exitscope_probes.profiles import recognise

DATA = Path(__file__).parent / "data/arm64"
RELEASES = ("6.1", "6.12")
HOOKS = {hook.name: hook for hook in hooks_arm64.HOOKS}


class Kernel:
    """A recorded kernel, asked as if it were the running one. A path that was never recorded is a KeyError."""

    def __init__(self, release: str) -> None:
        self._recorded: dict[str, Any] = json.loads((DATA / f"kernel-{release}.json").read_text())
        self.formats: dict[str, dict[str, int]] = self._recorded["formats"]

    def offset(self, path: str) -> int | None:
        found: dict[str, int | None] = self._recorded["offsets"]
        struct = path.partition(".")[0]
        if path not in found and path.count(".") == 1 and any(known.startswith(f"{struct}.") for known in found):
            return None  # all direct members of its struct are recorded
        return found[path]

    def function(self, name: str) -> tuple[str, int] | None:
        return ("vmlinux", 1) if self._recorded["functions"].get(name) else None

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        arguments = self._recorded["functions"][name]
        return arguments and tuple(arguments)

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        return None

    def raw_arguments(self, name: str) -> tuple[str, ...] | None:
        arguments = self._recorded["tracepoints"][name]
        return arguments and tuple(arguments)


@pytest.fixture(params=RELEASES)
def kernel(request: pytest.FixtureRequest) -> Kernel:
    return Kernel(request.param)


@pytest.fixture
def planned(kernel: Kernel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Choice]]:
    """Plans for the recorded kernel. Its tracefs has the tracepoints of system calls, and KVM's as recorded."""
    for name in ("sys_enter_ioctl", "sys_exit_ioctl", "sys_exit_read", "sys_enter_madvise", "sys_exit_madvise"):
        (tmp_path / "syscalls" / name).mkdir(parents=True)
    for name, fields in kernel.formats.items():
        directory = tmp_path.joinpath(*name.split(":"))
        directory.mkdir(parents=True)
        lines = [f"\tfield:u32 {field};\toffset:{offset};\tsize:4;\tsigned:0;\n" for field, offset in fields.items()]
        (directory / "format").write_text("".join(lines))
    monkeypatch.setattr(plan, "events", lambda: tmp_path)
    monkeypatch.setattr(formats, "offset_of", lambda path, _own=formats.offset_of: _own(path, tmp_path))
    known = {name: 1 for name in hooks.functions(hooks_arm64.HOOKS) if kernel.function(name)}
    monkeypatch.setattr(plan, "kernel_symbols", lambda _names: known)
    monkeypatch.setattr(plan, "why_no_fentry", lambda _btf: None)
    monkeypatch.setattr(plan, "why_no_kprobe", lambda: None)

    def make(strategy: Strategy | None = None) -> dict[str, Choice]:
        return {c.hook.name: c for c in choose(kernel, strategy, hooks_arm64.HOOKS)}  # type: ignore[arg-type]

    return make


def test_every_hook_finds_its_place(planned: Callable[..., dict[str, Choice]]) -> None:
    for name, choice in planned().items():
        assert choice.possible, f"{name}: {choice.passed_over}"
        if any(candidate.strategy == "fentry" for candidate in choice.hook.candidates):
            assert choice.possible[0].strategy == "fentry", f"{name}: {choice.passed_over}"


@pytest.mark.parametrize("strategy", ["kprobe", "tracepoint"])
def test_every_column_has_a_place(planned: Callable[..., dict[str, Choice]], strategy: Strategy) -> None:
    for name, choice in planned(strategy).items():
        assert choice.possible, f"{name}: {choice.passed_over}"


def test_a_guests_fault_begins_and_ends_in_arm64s_own_places(planned: Callable[..., dict[str, Choice]]) -> None:
    found = planned()
    assert [one.name for one in found["guest_fault"].possible] == [
        "fentry:kvm_handle_guest_abort",
        "kprobe:kvm_handle_guest_abort",
        "tracepoint:kvm_guest_fault",
    ]
    assert [one.name for one in found["guest_map"].possible] == [
        "fexit:kvm_handle_guest_abort",
        "tracepoint:kvm_entry",
    ]
    assert set(HOOKS) == {hook.name for hook in hooks.HOOKS} - {"async_fault"}


def test_x86s_places_are_not_there(kernel: Kernel) -> None:
    for tracepoint in ("kvm_page_fault", "kvm_mmu_spte_requested", "kvm_try_async_get_page"):
        with pytest.raises(KeyError):
            kernel.raw_arguments(tracepoint)
    assert all(
        not made.target.startswith("kvm_mmu")
        for hook in hooks_arm64.HOOKS
        for one in hook.candidates
        for made in one.attachments
        if made.via not in TRACEPOINTS
    )


def test_registers_are_where_the_kernel_has_them(kernel: Kernel) -> None:
    """x0 of a system call is overwritten by its result, and kept in orig_x0."""
    first, word = kernel.offset("user_pt_regs.regs"), 8
    assert first == kernel.offset("pt_regs.user_regs") == 0
    assert compiler._REGISTERS["aarch64"] == {
        "SYSCALL_ARGUMENT_1": kernel.offset("pt_regs.orig_x0"),
        **{f"ARGUMENT_{number}": first + word * (number - 1) for number in (1, 2, 3)},
        "RESULT": first,
        "SYSCALL": kernel.offset("pt_regs.syscallno"),
    }
    assert compiler._REGISTERS["aarch64"].keys() == compiler._REGISTERS["x86_64"].keys()


def test_the_abort_is_described_by_words(kernel: Kernel) -> None:
    """guest_abort.bpf.c reads esr_el2 and hpfar_el2 as u64; far_el2 is between them."""
    esr, hpfar = (kernel.offset(f"kvm_vcpu.arch.fault.{name}") for name in ("esr_el2", "hpfar_el2"))
    assert esr is not None and hpfar == esr + 16
    inside = [kernel.offset(f"kvm_vcpu_fault_info.{name}") for name in ("esr_el2", "far_el2", "hpfar_el2")]
    assert inside == [0, 8, 16]


def test_formats(kernel: Kernel) -> None:
    assert kernel.formats["kvm:kvm_exit"] == {"ret": 8, "esr_ec": 12, "vcpu_pc": 16}
    assert kernel.formats["kvm:kvm_guest_fault"] == {"vcpu_pc": 8, "hsr": 16, "hxfar": 24, "ipa": 32}
    assert kernel.raw_arguments("kvm_guest_fault") == (*["long unsigned int"] * 3, "long long unsigned int")


def test_aborts_by_their_exception_class() -> None:
    """What kvm_exit counts for a guest's fault: the class of its syndrome."""
    trap, data_abort, instruction_abort = exit_reasons.ARM_EXCEPTION_TRAP, 0x24, 0x20
    named = [
        exit_reasons.name_of(exit_reasons.ISA_ARM64, exit_reasons.cell_of(exit_reasons.ISA_ARM64, trap, ec))
        for ec in (data_abort, instruction_abort)
    ]
    assert named == ["DABT_LOW", "IABT_LOW"]


def test_arm64_always_has_two_stages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("exitscope_probes.access.platform.machine", lambda: "aarch64")
    assert access.two_stage_paging(tmp_path)


def test_profiles() -> None:
    assert [recognise(Kernel(release)).name for release in RELEASES] == ["bare-efault", "memory-fault"]
