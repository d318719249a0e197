"""Under which conditions two runs ran, and which differences make it unfair to hold one against the other.

The mode is what is compared, and no unfairness; nor is what belongs to it: exit mode has no handler threads, and its
userfaultfd has the feature SIGBUS.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

from .. import words
from ..modes import EXIT_MODES
from . import commandline
from .side import Side

MAX_LOSS: Final = 0.01
"""Records lost beyond this share may be those of the longest or the shortest faults."""

MAX_OTHER: Final = 0.01

BUSY_LOAD: Final = 1.0
"""Load average before the run, from which on the machine did not do nothing else."""

_IDLE: Final = "idle"
_UNKNOWN: Final = "not known"
_AND: Final = "; "
_WORKLOAD_FEATURES: Final = frozenset({"MINOR_HUGETLBFS", "MINOR_SHMEM", "PAGEFAULT_FLAG_WP", "WP_ASYNC", "MISSING"})
_MODE_FEATURES: Final = frozenset({"SIGBUS"})
_EXIT_RESOLVERS: Final = frozenset({"MADV_POPULATE", "other"})


@dataclass(frozen=True, slots=True)
class Difference:
    """One condition that is not the same. a, b: for a person."""

    condition: str
    a: str
    b: str
    unfair: bool
    why: str


class _Judgement(NamedTuple):
    unfair: bool
    why: str


@dataclass(frozen=True, slots=True)
class _Condition:
    """read: what a person reads, None if it is not known; judge: asked where the two differ."""

    name: str
    read: Callable[[Side], str | None]
    judge: Callable[[Side, Side], _Judgement]


def differences(a: Side, b: Side) -> list[Difference]:
    """Every condition in which the two differ, the unfair ones first."""
    found = []
    for condition in _CONDITIONS:
        mine, theirs = condition.read(a), condition.read(b)
        if mine == theirs:
            continue
        if mine is None or theirs is None:
            judgement = _Judgement(False, "one of the recordings does not know it")
        else:
            judgement = condition.judge(a, b)
        shown = _apart(mine or _UNKNOWN, theirs or _UNKNOWN)
        found.append(Difference(condition.name, *shown, *judgement))
    found += _loads(a, b)
    for side in (a, b):
        found += _own(side)
    return sorted(found, key=lambda difference: not difference.unfair)


def _apart(a: str, b: str) -> tuple[str, str]:
    """Of two long lists only what is not in both."""
    mine, theirs = a.split(_AND), b.split(_AND)
    if len(mine) < 2 or len(theirs) < 2:
        return a, b
    only_mine, only_theirs = (
        _AND.join(part for part in these if part not in others) or "nothing more"
        for these, others in ((mine, theirs), (theirs, mine))
    )
    return only_mine, only_theirs


def checked() -> list[str]:
    """Names of the conditions that are looked at."""
    return [*(condition.name for condition in _CONDITIONS), "machine load", "losses", "missing end"]


def _loads(a: Side, b: Side) -> list[Difference]:
    """A warning if one of them was recorded beside other work; no refusal, for no figure says what it changed."""
    mine, theirs = _load(a), _load(b)
    if {mine, theirs} <= {_IDLE, None}:
        return []
    why = "other work takes CPUs from the run, and waking a thread costs less on a busy machine: take figures with care"
    return [Difference("machine load", mine or _UNKNOWN, theirs or _UNKNOWN, False, why)]


def _load(side: Side) -> str | None:
    """What else ran when the recording began; the run's own load is in that of the end."""
    load, own = side.meta.load_start, len(side.meta.vms)
    others = max((side.meta.load_stop.vms or 0) - own, 0) if own else 0
    if load.average is None and not others:
        return None
    busy = [f"load average {load.average:.1f}"] if load.average is not None and load.average >= BUSY_LOAD else []
    busy += [words.counted(others, "other VM")] if others else []
    return ", ".join(busy) or _IDLE


def _own(side: Side) -> list[Difference]:
    """What makes a recording by itself a bad witness."""
    found = []
    lost = sum(side.meta.loss.get(name, 0) for name in ("ring_full", "map_full", "slow_client", "unreadable"))
    if lost:
        share = lost / (lost + max(side.meta.records, 1))
        text = f"{words.count(lost)} ({words.percent(share)})"
        why = (
            f"{side.letter} lost more than {words.percent(MAX_LOSS)} of its records, perhaps those of one kind"
            if share > MAX_LOSS
            else f"{side.letter} lost so few records that they cannot decide"
        )
        found.append(_one_sided(side, "losses", text, "none", _Judgement(share > MAX_LOSS, why)))
    if side.meta.lost_ns or side.meta.gaps:
        text = f"up to {words.duration(side.meta.lost_ns)} at the end, {len(side.meta.gaps)} gaps"
        why = f"{side.letter} was cut short or interrupted: what it has is right, but it is not all"
        found.append(_one_sided(side, "missing end", text, "nothing", _Judgement(False, why)))
    return found


def _one_sided(side: Side, name: str, text: str, other: str, judgement: _Judgement) -> Difference:
    a, b = (text, other) if side.letter == "A" else (other, text)
    return Difference(name, a, b, *judgement)


def _always(why: str) -> Callable[[Side, Side], _Judgement]:
    return lambda _a, _b: _Judgement(True, why)


def _never(why: str) -> Callable[[Side, Side], _Judgement]:
    return lambda _a, _b: _Judgement(False, why)


def _each(read: Callable[[Side], list[str | None]]) -> Callable[[Side], str | None]:
    """One text for what each VM says, the same only once."""

    def text(side: Side) -> str | None:
        values = read(side)
        known = sorted({value for value in values if value is not None})
        return ", ".join(known) if known and None not in values else None

    return text


def _handlers(side: Side) -> str | None:
    if side.mode in EXIT_MODES:
        return "none: the vCPU threads"
    count = sum(len({handler.tid for handler in vm.handlers} - {vcpu.tid for vcpu in vm.vcpus}) for vm in side.vms)
    return str(count)


def _judge_handlers(a: Side, b: Side) -> _Judgement:
    if a.mode != b.mode:
        return _Judgement(False, "who resolves the faults belongs to the mode")
    return _Judgement(True, "more threads resolve more faults at a time")


def _features(side: Side) -> str | None:
    values = [vm.uffd_features for vm in side.vms]
    if not values or any(value is None for value in values):
        return None
    return ", ".join(sorted({name for value in values for name in value or ()} - _MODE_FEATURES)) or "none"


def _judge_features(a: Side, b: Side) -> _Judgement:
    mine, theirs = (set((_features(side) or "").split(", ")) for side in (a, b))
    if (mine ^ theirs) & _WORKLOAD_FEATURES and "none" not in mine | theirs:
        return _Judgement(True, "another kind of fault")
    return _Judgement(False, "changes what the events say, not how long a fault lasts")


def _resolvers(side: Side) -> str | None:
    total = side.profile.resolvers.total()
    used = sorted(name for name, count in side.profile.resolvers.items() if count > MAX_OTHER * total)
    return ", ".join(used) if used else None


def _judge_resolvers(a: Side, b: Side) -> _Judgement:
    if a.mode != b.mode and any(set((_resolvers(side) or "").split(", ")) <= _EXIT_RESOLVERS for side in (a, b)):
        return _Judgement(False, "how the vCPU thread makes a page present belongs to the mode")
    return _Judgement(True, "the pages are made present in another way")


def _async(side: Side) -> str | None:
    return "yes" if side.profile.modes["async"] > MAX_OTHER * side.profile.modes.total() else "no"


def _strategy(side: Side) -> str | None:
    """Where each hook is attached, in one line."""
    attached = sorted(f"{hook.get('hook')}: {hook.get('attachment') or 'none'}" for hook in side.meta.hooks)
    return _AND.join(attached) or None


def _judge_command(a: Side, b: Side) -> _Judgement:
    names: set[str] = set()
    for mine, theirs in zip(a.vms, b.vms, strict=False):
        names |= set(commandline.unfair(mine.vmm, mine.command or "", theirs.command or "", a.mode == b.mode))
    if names:
        return _Judgement(True, f"another workload or another machine: {', '.join(sorted(names))}")
    return _Judgement(False, "names, paths, or the mode itself: nothing that is known to change a fault")


_CONDITIONS: Final = (
    _Condition("kernel", lambda s: s.meta.kernel, _always("KVM and userfaultfd may differ")),
    _Condition("CPU", lambda s: s.meta.cpu_model, _always("another machine")),
    _Condition("CPUs", lambda s: str(s.meta.cpus) if s.meta.cpus else None, _always("another machine")),
    _Condition("host", lambda s: s.meta.host, _never("CPU and kernel are looked at by themselves")),
    _Condition("VMM", _each(lambda s: [vm.vmm for vm in s.vms]), _always("another VMM resolves in another way")),
    _Condition("command line", _each(lambda s: [vm.command for vm in s.vms]), _judge_command),
    _Condition("VMs", lambda s: str(len(s.vms)), _always("VMs take the CPUs from each other")),
    _Condition("vCPUs", lambda s: str(sum(len(vm.vcpus) for vm in s.vms)), _always("vCPUs wait for each other")),
    _Condition("handler threads", _handlers, _judge_handlers),
    _Condition("uffd features", _features, _judge_features),
    _Condition("resolvers", _resolvers, _judge_resolvers),
    _Condition("backing", _each(lambda s: [vm.backing for vm in s.vms]), _always("other memory takes other time")),
    _Condition(
        "guest memory",
        _each(lambda s: [words.size(vm.memory_bytes) if vm.memory_bytes else None for vm in s.vms]),
        _always("another amount of work"),
    ),
    _Condition("memslots", _each(lambda s: [str(len(vm.memslots)) for vm in s.vms]), _never("found within a fault")),
    _Condition("async page faults", _async, _always("with them the vCPU may run on while a page is fetched")),
    _Condition("sampling", lambda s: s.meta.sampling, _always("sampled faults are not all faults")),
    _Condition("tracing", _strategy, _always("other hooks see other moments, and cost something else")),
)
