"""The hook plan: the first candidate of each hook whose needs this kernel meets.

By what BTF, kallsyms and tracefs show, never by a version number; the reason for each that is passed over is kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from .btf import KernelBtf
from .hooks import HOOKS, Attachment, Candidate, Hook, Strategy
from .symbols import kernel_symbols
from .tracing import TRACEFS_EVENTS


@dataclass(frozen=True, slots=True)
class HookStatus:
    """What became of a hook. passed_over: (attachment, reason) of each candidate that was not taken."""

    hook: str
    title: str
    status: Literal["attached", "missing", "refused"]
    attachment: str | None
    passed_over: tuple[tuple[str, str], ...]
    effect: str
    essential: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """A hook, the candidates that this kernel allows, best first, and why the others are out."""

    hook: Hook
    possible: tuple[Candidate, ...]
    passed_over: tuple[tuple[str, str], ...] = field(default=())


def _tracepoint_reason(btf: KernelBtf, attachment: Attachment) -> str | None:
    category, colon, name = attachment.target.partition(":")
    if colon:
        if (TRACEFS_EVENTS / category / name).exists():
            return None
        return f"this kernel has no tracepoint {attachment.target} (CONFIG_FTRACE_SYSCALLS, tracefs mounted?)"
    arguments = btf.raw_arguments(attachment.target)
    if arguments is None:
        return f"this kernel has no tracepoint {attachment.target}"
    if arguments[: len(attachment.arguments)] != attachment.arguments:
        expected = ", ".join(attachment.arguments)
        return f"tracepoint {attachment.target} has arguments ({', '.join(arguments)}), expected ({expected})"
    return None


def _why_not(btf: KernelBtf, candidate: Candidate) -> str | None:
    """The first reason why this kernel does not allow a candidate, None if it does."""
    for path in candidate.offsets:
        if btf.offset(path) is None:
            return f"BTF has no {path}"
    missing = [name for name in candidate.symbols if name not in kernel_symbols(candidate.symbols)]
    if missing:
        return f"/proc/kallsyms does not show {missing[0]} (inlined, renamed, or kptr_restrict)"
    for name in candidate.helpers:
        if not btf.has_function(name):
            return f"this kernel has no BPF helper {name}"
    for attachment in candidate.attachments:
        if reason := _tracepoint_reason(btf, attachment):
            return reason
    return None


def choose(
    btf: KernelBtf,
    strategy: Strategy | None = None,
    hooks: Iterable[Hook] = HOOKS,
    why_not: Callable[[KernelBtf, Candidate], str | None] = _why_not,
) -> tuple[Choice, ...]:
    """What this kernel allows for each hook; `strategy` leaves only that column of the plan."""
    choices = []
    for hook in hooks:
        possible, passed_over = [], []
        for candidate in hook.candidates:
            if strategy is not None and candidate.strategy != strategy:
                reason: str | None = f"--strategy {strategy} asked for"
            else:
                reason = why_not(btf, candidate)
            if reason is None:
                possible.append(candidate)
            else:
                passed_over.append((candidate.name, reason))
        choices.append(Choice(hook, tuple(possible), tuple(passed_over)))
    return tuple(choices)


def status_of(choice: Choice, taken: Candidate | None, refused: tuple[tuple[str, str], ...] = ()) -> HookStatus:
    """The status of a hook after attaching; refused: candidates that the kernel turned down, with its reason."""
    hook = choice.hook
    return HookStatus(
        hook=hook.name,
        title=hook.title,
        status="attached" if taken else "refused" if refused else "missing",
        attachment=taken.name if taken else None,
        passed_over=choice.passed_over + refused,
        effect=hook.effect,
        essential=hook.essential,
    )


def survey(strategy: Strategy | None = None) -> tuple[HookStatus, ...]:
    """What could be attached here, without attaching anything. Raises BtfError without BTF."""
    return tuple(
        status_of(choice, choice.possible[0] if choice.possible else None) for choice in choose(KernelBtf(), strategy)
    )
