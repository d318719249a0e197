"""S3: what the page is told about one VM and window at one moment, as plain data (S4 is this as JSON)."""

import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import (
    FAILURES,
    FILLS,
    MODES,
    VCPU_OTHER,
)

from . import threads
from .aggregate import Aggregate
from .fault import described
from .hardware import State, state_of
from .migrations.shown import recent
from .modes import USER_MODES
from .scalars import BACKGROUND, DEMAND, FAILED, FAILED_BY
from .series import TICKS
from .source import Status
from .view import View
from .vms import ALL, Vm
from .window import TICK_NS

LOSS_NAMES: Final = (
    "ring_full", "map_full", "unmatched_begin", "unmatched_end", "unreadable", "hook_missing", "slow_client",
    "not_counted",
)  # fmt: skip


class Selection:
    """The VMs that a view is about: one, or every running one.

    vcpus: (VM, vCPU number) of each row shown, in the order of every list of vCPUs. rows: their rows.
    """

    def __init__(self, vm_id: str, vms: list[Vm]) -> None:
        self.id = vm_id
        self.vms = vms
        self.vcpus = [(vm, vcpu) for vm in vms for vcpu in vm.vcpus()]
        self.rows: npt.NDArray[np.int64] = np.concatenate([np.empty(0, np.int64), *(vm.vcpu_rows() for vm in vms)])
        self.other_rows = np.array([vm.rows[VCPU_OTHER] for vm in vms if VCPU_OTHER in vm.rows], np.int64)
        self.series_row = 0 if vm_id == ALL else vms[0].row

    @property
    def layout(self) -> tuple[tuple[str, int], ...]:
        """Names the rows: changes when a row comes, goes or moves."""
        return tuple((vm.id, vcpu) for vm, vcpu in self.vcpus)


def select(aggregate: Aggregate, vm_id: str) -> Selection | None:
    """The selection of a VM's id, of `all`, or (empty) of what is best shown; None if there is no such VM."""
    running = aggregate.vms.running()
    if not vm_id:
        if len(running) > 1:
            vm_id = ALL
        elif running or len(aggregate.vms):
            vm_id = (running or list(aggregate.vms))[-1].id
        else:
            return None
    if vm_id == ALL:
        return Selection(ALL, running)
    vm = aggregate.vms.get(vm_id)
    return Selection(vm_id, [vm]) if vm else None


def build(
    aggregate: Aggregate,
    status: Status,
    selection: Selection | None,
    length_ns: int,
    sequence: int,
    skipped: int,
    alarms: Sequence[dict[str, Any]] = (),
) -> dict[str, Any]:
    """A `frame` of S4 without its tick. skipped: frames that slow clients were not sent; alarms: as alarms.shown()."""
    now_ns = time.monotonic_ns()
    frame: dict[str, Any] = {
        "type": "frame",
        "sequence": sequence,
        "time_ns": aggregate.time_ns,
        "wall_ms": time.time_ns() // 1_000_000 - (now_ns - aggregate.time_ns) // 1_000_000,
        "window_ns": length_ns,
        "window_filled_ns": aggregate.scalars.filled_ns(length_ns),
        "source": source(aggregate, status),
        "sampling": 1,
        "vms": vm_list(aggregate, length_ns),
        "vm": selection.id if selection else None,
        "loss": loss(aggregate, skipped),
        "missing_hooks": missing_hooks(aggregate),
        "alarms": list(alarms),
    }
    return frame | _shown(aggregate, selection or Selection(ALL, []), length_ns)


def _shown(aggregate: Aggregate, selection: Selection, length_ns: int) -> dict[str, Any]:
    view = View(aggregate, selection.rows, length_ns)
    numbers = [vm.number for vm in selection.vms]
    said = profile(aggregate)
    migrating = None if selection.id == ALL else {vm.id for vm in selection.vms}
    return {
        "modes": view.modes(),
        "other": View(aggregate, selection.other_rows, length_ns).everything(),
        "stages": view.stages(),
        "vcpus": vcpu_list(aggregate, selection, view),
        "exits": view.exits(),
        "hardware": view.hardware_exits(),
        "hardware_state": hardware_state(aggregate),
        "fills": fills(aggregate, selection, length_ns),
        "queue": queue(selection) if aggregate.hello.queues else None,
        "slowest": [
            described(aggregate, record, said)
            for record in aggregate.slowest.over(length_ns, aggregate.time_ns, numbers)
        ],
        "threads": aggregate.threads.shown(selection.vms, length_ns),
        "memslots": aggregate.gpa.memslots(selection.vms),
        "migrations": recent(aggregate.migrations, migrating, aggregate.time_ns),
    }


def queue(selection: Selection) -> dict[str, int]:
    """What waits in the userfaultfds' queues, and what has been read from them."""
    return {
        "pending": sum(vm.pending for vm in selection.vms),
        "total": sum(vm.total for vm in selection.vms),
        # Waiters whose event has been read. Not read less done: a kicked vCPU's event is read twice, done once.
        "outstanding": sum(max(vm.total - vm.pending, 0) for vm in selection.vms),
    }


def history(aggregate: Aggregate, selection: Selection | None, length_ns: int) -> dict[str, Any]:
    """A `history` of S4."""
    ticks = _ticks(aggregate, selection, TICKS) if selection else []
    vm_id = selection.id if selection else None
    return {"type": "history", "vm": vm_id, "window_ns": length_ns, "tick_ns": TICK_NS, "ticks": ticks}


def tick(aggregate: Aggregate, selection: Selection | None) -> dict[str, Any] | None:
    """The newest column of the time series, None if there is none."""
    if selection is None:
        return None
    ticks = _ticks(aggregate, selection, 1)
    return ticks[-1] if ticks else None


def _ticks(aggregate: Aggregate, selection: Selection, most: int) -> list[dict[str, Any]]:
    ticks = aggregate.series.ticks(selection.series_row, selection.rows, most)
    # A replay knows no queues: null is not 0.
    return ticks if aggregate.hello.queues else [one | {"queue": None} for one in ticks]


def source(aggregate: Aggregate, status: Status) -> dict[str, Any]:
    """How the source is, and what it says of its host."""
    now_ns = time.monotonic_ns()
    return {
        "kind": status.kind,
        "state": status.state(now_ns),
        "reason": status.explain(now_ns),
        "age_ns": now_ns - status.data_ns if status.data_ns else None,
        "errors": status.errors,
        "host": aggregate.hello.host,
        "kernel": aggregate.hello.kernel,
        "only": aggregate.hello.only,
    }


def vm_list(aggregate: Aggregate, length_ns: int | None = None) -> list[dict[str, Any]]:
    """Every VM; with its fault rate if a window is given, else with its threads."""
    listed = []
    for vm in aggregate.vms:
        entry = {
            "id": vm.id,
            "name": vm.name,
            "pid": vm.peer.pid,
            "vmm": vm.peer.vmm,
            "uuid": vm.peer.uuid,
            "user": vm.peer.user,
            "unreadable": vm.peer.unreadable,
            "domain": vm.peer.domain,
            "state": vm.state,
            "vcpus": len(vm.vcpus()),
            "not_counted": vm.peer.not_counted,
            "faults": vm.faults(aggregate.rows),
        }
        if length_ns is not None:
            counted = aggregate.scalars.since(length_ns, vm.vcpu_rows(), slice(0, USER_MODES)).sum()
            filled_ns = max(aggregate.scalars.filled_ns(length_ns), 1)
            entry["rate_per_s"] = round(max(int(counted), 0) * 1e9 / filled_ns, 2)
        else:
            entry["threads"] = threads.listed(vm)
        listed.append(entry)
    return listed


def vcpu_list(aggregate: Aggregate, selection: Selection, view: View) -> list[dict[str, Any]]:
    """A row per vCPU, in the selection's order."""
    names = {(vm.id, peer.vcpu): peer.name for vm in selection.vms for peer in vm.peer.vcpus}
    columns = zip(
        selection.vcpus, selection_totals(aggregate, selection), view.rate_per_row(), view.latency_per_row(),
        view.stall_per_row(), strict=True,
    )  # fmt: skip
    return [
        {
            "vm": vm.id,
            "vm_name": vm.name,
            "vcpu": vcpu,
            "tid": tid,
            "name": names.get((vm.id, vcpu)) or f"vCPU {vcpu}",
            "faults": dict(zip(MODES, counts, strict=True)),
            "rate_per_s": rate,
            "latency_ns": latency,
            "stall": stall,
            "open_since_ns": open_since_ns if vm.gone_ns is None else 0,
        }
        for (vm, vcpu), (tid, open_since_ns, counts), rate, latency, stall in columns
    ]


def selection_totals(aggregate: Aggregate, selection: Selection) -> list[tuple[int, int, list[int]]]:
    """(tid, open_since_ns, faults per mode since first seen) of each row."""
    out: list[tuple[int, int, list[int]]] = []
    for vm in selection.vms:
        totals = vm.totals(aggregate.rows)
        counts = totals["series"]["count"][:, : len(MODES)].tolist()
        out += zip(totals["tid"].tolist(), totals["open_since_ns"].tolist(), counts, strict=True)
    return out


def fills(aggregate: Aggregate, selection: Selection, length_ns: int) -> dict[str, Any]:
    """Pages made present in the window, by what did it, while somebody waited or ahead of need."""
    rows = np.array([vm.row for vm in selection.vms], np.int64)
    counted = np.maximum(aggregate.fills.since(length_ns, rows).sum(axis=0), 0)
    return {
        "demand": {name: n for name, n in zip(FILLS, counted[DEMAND].tolist(), strict=True) if n},
        "background": {name: n for name, n in zip(FILLS, counted[BACKGROUND].tolist(), strict=True) if n},
        "failed": int(counted[FAILED]),
        "failed_by": {name: n for name, n in zip(FAILURES, counted[FAILED_BY].tolist(), strict=True) if n},
    }


def loss(aggregate: Aggregate, skipped: int) -> dict[str, int]:
    """The loss ledger, every place by its name; all 0 means that nothing was lost."""
    ledger = dict.fromkeys(LOSS_NAMES, 0) | aggregate.ledger
    ledger["slow_client"] += skipped
    return ledger


def hooks(aggregate: Aggregate) -> list[dict[str, Any]]:
    """What HELLO said of the hook plan."""
    return aggregate.hello.hooks


def profile(aggregate: Aggregate) -> dict[str, Any]:
    """What HELLO said of the kernel's profile (exitscope_probes.profiles.described); {} if nothing."""
    said = aggregate.hello.capabilities
    found = said.get("profile") if isinstance(said, dict) else None
    return found if isinstance(found, dict) else {}


def hardware_state(aggregate: Aggregate) -> State:
    """Whether hardware exits can be counted there, and have been."""
    return state_of(hooks(aggregate), aggregate.hardware.isa)


def missing_hooks(aggregate: Aggregate) -> list[str]:
    """A short text per hook that is not attached."""
    return [
        f"{hook.get('title') or hook.get('hook')}: {hook.get('status')}"
        for hook in hooks(aggregate)
        if hook.get("status") != "attached"
    ]
