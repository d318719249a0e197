"""The hook plan: the candidates of each hook whose needs this kernel meets, best first.

By what BTF, kallsyms, tracefs and a try show, never by a version number; the reason for each that is passed over is
kept.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from . import formats
from .btf import KernelBtf
from .hook_table import HOOKS, functions
from .hooks import TRACEPOINTS, Attachment, Candidate, Hook, Strategy
from .symbols import kernel_symbols
from .tracefs import events
from .tracing import why_no_fentry, why_no_kprobe

_FORCED: Final = "--strategy"


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


def _differs(what: str, arguments: tuple[str, ...], expected: tuple[str, ...]) -> str | None:
    if arguments[: len(expected)] == expected:
        return None
    return f"{what} has arguments ({', '.join(arguments)}), expected ({', '.join(expected)})"


def _tracepoint_reason(btf: KernelBtf, attachment: Attachment) -> str | None:
    category, colon, name = attachment.target.partition(":")
    if colon:
        if (events() / category / name).exists():
            return None
        return f"this kernel has no tracepoint {attachment.target} (CONFIG_FTRACE_SYSCALLS, or no tracefs)"
    arguments = btf.raw_arguments(attachment.target)
    if arguments is None:
        return f"this kernel has no tracepoint {attachment.target}"
    return _differs(f"tracepoint {attachment.target}", arguments, attachment.arguments)


def _hidden(names: Iterable[str]) -> str | None:
    known = kernel_symbols(functions())
    missing = [name for name in names if name not in known]
    if not missing:
        return None
    return f"/proc/kallsyms does not show {missing[0]} (inlined, renamed, module not loaded, kptr_restrict)"


def _function_reason(btf: KernelBtf, attachment: Attachment) -> str | None:
    by_kprobe = attachment.via in ("kprobe", "kretprobe")
    if reason := why_no_kprobe() if by_kprobe else why_no_fentry(btf):
        return reason
    if reason := _hidden((attachment.target,)):
        return reason
    arguments = btf.function_arguments(attachment.target)
    if arguments is None:
        return None if by_kprobe else f"BTF has no function {attachment.target}"
    return _differs(f"function {attachment.target}", arguments, attachment.arguments)


def _why_not(btf: KernelBtf, candidate: Candidate) -> str | None:
    """The first reason why this kernel does not allow a candidate, None if it does."""
    for attachment in candidate.attachments:
        tracepoint = attachment.via in TRACEPOINTS
        if reason := (_tracepoint_reason if tracepoint else _function_reason)(btf, attachment):
            return reason
    for path in candidate.fields:
        if formats.offset_of(path) is None:
            return f"the tracepoint's format has no {path}"
    for path in candidate.offsets:
        if btf.offset(path) is None:
            return f"BTF has no {path}"
    if reason := _hidden(candidate.symbols):
        return reason
    for name in candidate.helpers:
        if btf.function_arguments(name) is None:
            return f"this kernel has no BPF helper {name}"
    return None


def choose(
    btf: KernelBtf,
    strategy: Strategy | None = None,
    hooks: Iterable[Hook] = HOOKS,
    why_not: Callable[[KernelBtf, Candidate], str | None] = _why_not,
) -> tuple[Choice, ...]:
    """What this kernel allows for each hook; `strategy` leaves only that column, tracepoints where it is empty."""
    choices = []
    for hook in hooks:
        possible, passed_over = [], []
        columns = {candidate.strategy for candidate in hook.candidates}
        forced = strategy if strategy is None or strategy in columns else "tracepoint"
        for candidate in hook.candidates:
            if forced is not None and candidate.strategy != forced:
                reason: str | None = f"{_FORCED} {forced} asked for"
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


def unseen(hooks: Iterable[HookStatus]) -> str | None:
    """Which missing hooks would make the numbers wrong, and why they are missing; None if none would."""
    missing = [hook for hook in hooks if hook.essential and hook.status != "attached"]
    if not missing:
        return None
    reasons = dict.fromkeys(
        reason for hook in missing for _, reason in hook.passed_over if not reason.startswith(_FORCED)
    )
    titles = ", ".join(hook.title for hook in missing)
    return f"what is counted would be wrong without the hook {titles} ({'; '.join(reasons)})"
