"""Rule: async page faults that are tried again and again, and never bring a page.

Where UFFD_FEATURE_SIGBUS answers a fault, the kworker that KVM handed it to fails unseen, the vCPU is told that its
page is ready, finds none and faults again, for ever, without a return to userspace: some 20,000 times a second
(measured, Linux 6.18). Each of these ends like any async fault; what tells them apart is that KVM never maps the page
afterwards (`prefetch`), that the vCPU finishes no other fault, and that nobody fills a page. A vCPU that waits for one
slow page tries again, too: those tries are async_repeats.
"""

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import MODE_ASYNC, MODES

from ..words import counted
from .finding import Finding
from .sight import Sight
from .words import age

PERIOD_NS: Final = 1_000_000_000
MIN_TRIES: Final = 100
"""Per period and vCPU. A kworker answers within a millisecond if it does not wait."""

_FILLS_SHARE: Final = 0.01
_OTHER_MODES: Final = [mode for mode in range(len(MODES)) if mode != MODE_ASYNC]
_OWNER, _TRIES, _MAPPED, _OTHERS = slice(0, 2), 2, 3, 4


class Livelock:
    """Compares the counters with those of a second ago."""

    def __init__(self) -> None:
        self._before: npt.NDArray[np.int64] = np.zeros((0, 5), np.int64)
        self._fills: dict[str, int] = {}
        self._before_ns = 0
        self._found: list[Finding] = []

    def look(self, sight: Sight) -> Iterator[Finding]:
        """One finding per VM."""
        passed_ns = sight.time_ns - self._before_ns
        if passed_ns >= PERIOD_NS:
            now = _counted(sight.aggregate.rows.totals)
            fills = {vm.id: int(sight.aggregate.fills.now[vm.row].sum()) for vm in sight.running}
            self._found = list(self._compare(sight, now, fills, passed_ns)) if self._before_ns else []
            self._before, self._fills, self._before_ns = now, fills, sight.time_ns
        yield from self._found

    def _compare(
        self, sight: Sight, now: npt.NDArray[np.int64], fills: dict[str, int], passed_ns: int
    ) -> Iterator[Finding]:
        grown = now.copy()
        grown[: len(self._before)] -= self._before  # rows that were not there had no owner, and counted nothing
        same = ~grown[:, _OWNER].any(axis=1) & sight.aggregate.rows.alive
        idle = same & (grown[:, _MAPPED] == 0) & (grown[:, _OTHERS] == 0)
        tries = np.where(idle, grown[:, _TRIES], 0)
        if not (tries >= MIN_TRIES).any():
            return
        for vm in sight.running:
            caught = {vcpu: int(tries[row]) for vcpu, row in vm.rows.items() if tries[row] >= MIN_TRIES}
            filled = fills[vm.id] - self._fills.get(vm.id, 0)
            if not caught or filled > _FILLS_SHARE * sum(caught.values()):
                continue
            worst = max(caught, key=lambda vcpu: caught[vcpu])
            name = vm.name
            others = f" and {counted(len(caught) - 1, 'other')}" if len(caught) > 1 else ""
            yield Finding(
                "async_livelock",
                "critical",
                f"vCPU {worst}{others} of {name} tried {counted(sum(caught.values()), 'async page fault')} in "
                f"{age(passed_ns)}, and not one page came.",
                "Exit mode by SIGBUS and KVM's async page faults exclude each other: use uffd mode, or a VM whose "
                "interrupt controller is in userspace.",
                vm.id,
                name,
                worst,
                hold_ns=2 * PERIOD_NS,
            )


def _counted(totals: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Owner (VM, vCPU), async tries without repeats, pages mapped after async faults, faults of other modes."""
    others = totals["series"]["count"][:, _OTHER_MODES].sum(axis=1)
    tries = totals["async_tries"] - totals["async_repeats"]
    columns = (totals["vm"], totals["vcpu"], tries, totals["prefetch"], others)
    return np.stack([column.astype(np.int64) for column in columns], axis=1)
