"""The planner takes what the kernel shows, in order, and keeps the reason for what it passes over."""

import re
from pathlib import Path

import exitscope_probes
from exitscope_probes.btf import KernelBtf
from exitscope_probes.hooks import HOOKS, TRACEPOINTS, Attachment, Candidate, Hook
from exitscope_probes.plan import choose, status_of

FAST = Candidate("fentry", (Attachment("kvm_arch_vcpu_ioctl_run", "on_run", via="fentry"),))
SLOW = Candidate("tracepoint", (Attachment("kvm_entry", "on_entry"), Attachment("kvm_exit", "on_exit")))
HOOK = Hook("run", "vCPU run", "nothing is seen", (FAST, SLOW))


def kernel_without(*strategies: str):  # type: ignore[no-untyped-def]
    return lambda _btf, candidate: f"no {candidate.strategy} here" if candidate.strategy in strategies else None


def plan(*without: str, strategy: str | None = None):  # type: ignore[no-untyped-def]
    return choose(object.__new__(KernelBtf), strategy, [HOOK], kernel_without(*without))[0]  # type: ignore[arg-type]


def test_the_first_that_is_allowed_comes_first() -> None:
    assert plan().possible == (FAST, SLOW)
    assert plan("fentry").possible == (SLOW,)
    assert plan("fentry").passed_over == (("fentry:kvm_arch_vcpu_ioctl_run", "no fentry here"),)


def test_a_forced_strategy_leaves_only_its_column() -> None:
    choice = plan(strategy="tracepoint")
    assert choice.possible == (SLOW,)
    assert choice.passed_over == (("fentry:kvm_arch_vcpu_ioctl_run", "--strategy tracepoint asked for"),)


def test_status_says_what_became_of_it() -> None:
    attached = status_of(plan("fentry"), SLOW)
    assert (attached.status, attached.attachment) == ("attached", "tracepoint:kvm_entry+tracepoint:kvm_exit")
    refused = status_of(plan(), None, (("fentry:kvm_arch_vcpu_ioctl_run", "EPERM"),))
    assert (refused.status, refused.attachment) == ("refused", None)
    assert refused.passed_over == (("fentry:kvm_arch_vcpu_ioctl_run", "EPERM"),)
    assert status_of(plan("fentry", "tracepoint"), None).status == "missing"


def test_every_hook_says_what_is_lost_without_it() -> None:
    assert len({hook.name for hook in HOOKS}) == len(HOOKS)
    for hook in HOOKS:
        assert hook.effect and hook.title and hook.candidates


def test_every_program_is_in_the_file_of_its_kind() -> None:
    """A program that no file defines would be found out only where its candidate is taken."""
    where = {
        name: path.name
        for path in (Path(exitscope_probes.__file__).parent / "bpf").glob("*.bpf.c")
        for name in re.findall(r"^int (\w+)\(", path.read_text(), re.MULTILINE)
    }
    for made in {made for hook in HOOKS for one in hook.candidates for made in one.attachments}:
        by_function = made.via not in TRACEPOINTS
        assert made.program in where, made
        assert made.program.startswith("on_") != by_function, made
        if by_function:
            assert made.program.startswith(f"{made.via}_"), made


def test_a_forced_strategy_leaves_tracepoints_where_its_column_is_empty() -> None:
    hook = Hook("wait", "wait", "nothing", (FAST, SLOW))
    (choice,) = choose(object.__new__(KernelBtf), "kprobe", [hook], kernel_without())
    assert choice.possible == (SLOW,)
    assert choice.passed_over == (("fentry:kvm_arch_vcpu_ioctl_run", "--strategy tracepoint asked for"),)
