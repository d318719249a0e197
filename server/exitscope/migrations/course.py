"""One migration while it is followed, and afterwards: what is known of it, and how that is told."""

import math
from dataclasses import dataclass, field
from typing import Any, Final

from ..peer import PeerMigration
from ..scalars import STALL_NS
from ..vms import Vm
from . import status, words
from .models import How, Kind, Role, State
from .numbers import Counted, Standing
from .samples import Samples
from .standstill import counted as standstill_of
from .standstill import span_ns

_ROUNDING: Final = 0.02  # of a vCPU: the kernel's totals are not read all at one instant


@dataclass(frozen=True, slots=True)
class Closing:
    """How it will have ended, once the totals count all that came before. seen_ns: when that was noticed.

    said: QEMU said so itself; else it is inferred, and faults that nobody answered speak against success.
    """

    state: State
    at_ns: int
    why: str
    seen_ns: int
    said: bool = False


@dataclass(slots=True, eq=False)
class Course:
    """See models.Migration for what is told. Moments are CLOCK_MONOTONIC ns.

    base: counters when it began, None once they are not needed any more; carried: counted by an earlier collector.
    moved_ns: when pages were last placed or missed; waited_ns: when somebody was last seen waiting. final: QEMU has
    said that it is over.
    """

    vm: str
    vm_name: str
    uuid: str | None
    kind: Kind
    role: Role
    how: How
    from_ns: int
    base: Standing | None
    id: str = ""
    state: State = "active"
    to_ns: int | None = None
    begun: list[str] = field(default_factory=list)  # evidence
    ended: list[str] = field(default_factory=list)
    missing_from_ns: int | None = None
    phases: list[tuple[str, int]] = field(default_factory=list)  # name, from_ns
    carried: Standing = field(default_factory=Standing)
    moved_ns: int = 0
    waited_ns: int = 0
    closing: Closing | None = None
    final: bool = False
    idle: bool = False  # it ended because nothing happened any more: it may go on
    pauses: list[int] = field(default_factory=lambda: [0, 0])  # how many, ns in all
    peak: int = 0
    vcpus: int = 0
    answer: dict[str, Any] | None = None
    answered_ns: int = 0
    samples: Samples = field(default_factory=Samples)
    recording: str | None = None
    other: str | None = None
    _stall: tuple[int, dict[int, int]] | None = None  # when last looked, and each vCPU's stall by then
    _settled: dict[int, int] = field(default_factory=dict)  # that of when pages last moved
    _figures: dict[str, Any] = field(default_factory=dict)
    _figures_ns: int = -1

    def __post_init__(self) -> None:
        self.id = f"{self.vm}-{self.from_ns // 1_000_000}"

    @property
    def phase(self) -> str | None:
        """The one that goes on."""
        return self.phases[-1][0] if self.phases else None

    @property
    def last_sign_ns(self) -> int:
        """When it was last known to go on."""
        return max(self.moved_ns, self.answered_ns if self.role == "source" or self.missing_from_ns is None else 0)

    def switched(self, at_ns: int | None) -> None:
        """The other side says since when the VM runs there; QEMU was asked only later."""
        if at_ns is not None and len(self.phases) > 1 and self.phases[1][0] == "postcopy":
            since_ns = self.phases[0][1]
            self.phases[1] = "postcopy", min(max(at_ns, since_ns), self.phases[1][1])

    def enter(self, name: str, at_ns: int) -> None:
        """Another phase begins; one that is entered already goes on."""
        if self.phase != name:
            self.phases.append((name, max(at_ns, self.phases[-1][1]) if self.phases else at_ns))

    def missing(self, at_ns: int) -> None:
        """Pages are placed or missed, since this moment."""
        if self.missing_from_ns is not None:
            return
        self.missing_from_ns = max(at_ns, self.from_ns)
        if self.role == "destination" and self.how == "qmp" and self.phase not in status.POSTCOPY:
            self.enter("postcopy", self.missing_from_ns)  # QEMU will say so when it is asked next
            self.kind = "postcopy"

    def missed_earlier(self, at_ns: int) -> None:
        """A record says that a page was missed at this moment already."""
        if self.missing_from_ns is None or at_ns >= self.missing_from_ns:
            return
        if self.how == "kernel" and at_ns < self.from_ns:
            self.phases[0] = self.phases[0][0], at_ns
            self.from_ns = at_ns
        self.missing_from_ns = max(at_ns, self.from_ns)

    def as_qemu_says(self, answer: PeerMigration) -> None:
        """QEMU speaks of what the kernel had shown: it was in postcopy already."""
        self.how, self.role, self.kind = "qmp", answer.role or self.role, "postcopy"
        self.begun.append(words.said(answer, missed=False))
        self.phases = [("postcopy", self.from_ns)]

    def said(self, answer: PeerMigration, meta: dict[str, Any], at_ns: int, time_ns: int) -> None:
        """QEMU's answer: the phase, a sample, and that it is over if it says so."""
        phase = status.PHASES.get(answer.status or "")
        if phase is not None and not (phase in ("setup", "precopy") and self.phase in status.POSTCOPY):
            since_ns = at_ns
            if phase in status.POSTCOPY:
                self.kind = "postcopy"
                if self.missing_from_ns is not None:  # it is asked from time to time only
                    since_ns = min(at_ns, max(self.missing_from_ns, self.answered_ns))
            self.enter(phase, since_ns)
        over = status.STATES.get(answer.status or "")
        if over is not None and self.closing is None:
            over_ns = at_ns
            if answer.total_ns and self.role == "source":  # it is asked from time to time only
                over_ns = min(at_ns, max(self.from_ns + answer.total_ns, self.answered_ns))
            self.closing, self.final = Closing(over, over_ns, words.over(answer.status), time_ns, said=True), True
        if phase is not None or over is not None:
            self.samples.add(answer, at_ns)
            self.answer, self.answered_ns = meta, at_ns

    def last_word(self, answer: PeerMigration, meta: dict[str, Any], at_ns: int) -> None:
        """QEMU's answer after the kernel had shown that it is over."""
        self.samples.add(answer, at_ns)
        self.answer, self.final, self.idle = meta, True, False
        self.state = status.STATES.get(answer.status or "", self.state)
        self.ended.append(words.over(answer.status))

    def look(self, counted: Counted, vm: Vm, standing_still: int, moved: bool, time_ns: int) -> None:
        """How many vCPUs stand still now, and must have since the last look. moved: pages were placed or missed."""
        vcpus = vm.vcpus()
        self.vcpus = max(self.vcpus, len(vcpus))
        if self.missing_from_ns is None:
            return
        now = dict(zip(vcpus, counted.scalars.now[vm.vcpu_rows(), STALL_NS].tolist(), strict=True))
        least = 0
        if self._stall is not None and time_ns > self._stall[0]:
            then_ns, then = self._stall
            stood_ns = sum(max(ns - then.get(vcpu, 0), 0) for vcpu, ns in now.items())
            least = math.ceil(stood_ns / (time_ns - then_ns) - _ROUNDING)
        self._stall = time_ns, now
        if moved:
            self._settled = now
        self.peak = min(max(self.peak, standing_still, least), self.vcpus)

    def new_collector(self, counted: Counted, vm: Vm | None) -> None:
        """Its counters begin from zero."""
        self.carried = self.total(counted, vm)
        self.base, self._stall, self._settled = Standing(), None, {}
        self.note(words.RESTARTED, words.RESTARTED)

    def note(self, beginning: str, sentence: str) -> None:
        """Add to the evidence, in place of a sentence that begins alike."""
        self.begun = [one for one in self.begun if not one.startswith(beginning)] + [sentence]

    def end(self, counted: Counted, vm: Vm | None, state: State, at_ns: int, why: str, idle: bool) -> None:
        """It is over, and these are its last figures. idle: it may still go on."""
        self.state, self.idle, self.closing = state, idle, None
        self.to_ns = max(at_ns, self.from_ns, *(from_ns for _, from_ns in self.phases))
        self.ended = [why]
        total = self.total(counted, vm)
        if idle and self._settled and self.base is not None:  # not what else happened until that was clear
            settled = Standing(stall_ns=self._settled).since(self.base)
            total.stall_ns = settled.plus(Standing(stall_ns=self.carried.stall_ns)).stall_ns
        self._figures = self._figures_of(total, self.to_ns)
        if not idle:
            self.forget_base()

    def resume(self, time_ns: int) -> None:
        """It had only paused."""
        self.pauses = [self.pauses[0] + 1, self.pauses[1] + max(time_ns - (self.to_ns or time_ns), 0)]
        self.ended = []
        self.note(words.PAUSED, words.paused(*self.pauses))
        self.state, self.to_ns, self.idle, self._stall = "active", None, False, None

    def forget_base(self) -> None:
        """It will not go on any more."""
        self.base, self.carried, self._stall, self._settled = None, Standing(), None, {}

    def told(self, counted: Counted, vm: Vm | None, time_ns: int, samples: bool) -> dict[str, Any]:
        """models.Migration as plain data, wall_ms left 0."""
        if self.state == "active" and self._figures_ns != time_ns:
            self._figures = self._figures_of(self.total(counted, vm), time_ns)
            self._figures_ns = time_ns
        ends = [*(from_ns for _, from_ns in self.phases[1:]), self.to_ns]
        return {
            "id": self.id,
            "vm": self.vm,
            "vm_name": self.vm_name,
            "kind": self.kind,
            "role": self.role,
            "how": self.how,
            "evidence": [*self.begun, *self.ended],
            "ending": self.ended,
            "state": self.state,
            "from_ns": self.from_ns,
            "to_ns": self.to_ns,
            "wall_ms": 0,
            "missing_from_ns": self.missing_from_ns,
            "phases": [
                {"name": name, "from_ns": from_ns, "to_ns": to_ns}
                for (name, from_ns), to_ns in zip(self.phases, ends if self.phases else [], strict=True)
            ],
            **self._figures,
            "qmp": self.answer,
            "samples": self.samples.listed() if samples else [],
            "recording": self.recording,
            "other": self.other,
        }

    def total(self, counted: Counted, vm: Vm | None) -> Standing:
        """What was counted since it began."""
        if vm is None or self.base is None:
            return self.carried
        return Standing.of(counted, vm).since(self.base).plus(self.carried)

    def _figures_of(self, total: Standing, end_ns: int) -> dict[str, Any]:
        since_ns = self.from_ns if self.missing_from_ns is None else self.missing_from_ns
        span = span_ns(self.phases, since_ns, end_ns)
        return figures_of(total, self.role, span, self.peak, self.vcpus, missing=self.missing_from_ns is not None)


def figures_of(
    total: Standing, role: Role, span: tuple[int, int], peak: int, vcpus: int, missing: bool
) -> dict[str, Any]:
    """faults to standstill of models.Migration. peak: most vCPUs that were seen to stand still at once.

    span: from when to when pages were missing, ns; missing: whether any was.
    """
    length_ns = span[1] - span[0]
    vcpus = max(vcpus, len(total.stall_ns))
    mean = min(sum(total.stall_ns.values()) / max(length_ns, 1), vcpus)
    peak = min(max(peak, math.ceil(mean - _ROUNDING)), vcpus)
    still = standstill_of(role, span, sum(total.stall_ns.values()), vcpus) if missing else None
    return total.figures() | {
        "brownout": {"mean": round(mean, 4), "peak": max(peak, 0), "vcpus": vcpus},
        "standstill": None if still is None else still.model_dump(),
    }
