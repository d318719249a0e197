"""The privileged process: loads the probes, reads what they produce, publishes it. One thread, one loop."""

import contextlib
import dataclasses
import logging
import os
import platform
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from . import __version__, checks, profiles, rights
from .discovery import Rows
from .errors import ProbeError, RecordingError, RingError, fail, refused
from .ledger import Ledger
from .loader import Probes, load
from .observer import Observer
from .only import only
from .plainlog import log_to_stderr
from .publisher import Publisher
from .recording import Recording
from .records import CELL_DTYPE, FAULT_DTYPE, VCPU_DTYPE, VM_DTYPE
from .ring import RingReader
from .settings import Settings
from .socketfile import Listener
from .totals import Totals, TotalsReader
from .wire import Kind, Message

NICENESS: Final = -10
BATCH_RECORDS: Final = 16_384
_MAX_BATCHES: Final = 64
_DRAIN_S: Final = 0.05
_DRAIN_MIN_S: Final = 0.001
_TOTALS_S: Final = 0.2
_DISCOVERY_NS: Final = 1_000_000_000
_RETIRE_NS: Final = 5_000_000_000  # a gone VM's slots wait this long for a client that is behind
_NAMING_NS: Final = 50_000_000  # totals of a new VM wait so long for its name, and no longer
_UNBORN_NS: Final = 1_000_000_000  # a VM without a vCPU that ends sooner was a VMM's test of KVM
_STALE_S: Final = 5.0

_log = logging.getLogger(__name__)


def main(settings: Settings) -> int:
    """Collect until SIGTERM or SIGINT. Returns the exit status: 0, or 1 after one line that says why."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as SIGINT, until the loop takes both over
    log_to_stderr("exitscope collector")
    try:
        reason = checks.usable()
        if reason:
            raise ProbeError(f"live tracing is not possible here: {reason}")
        _run(settings)
    except ProbeError as error:
        return fail(error)
    except KeyboardInterrupt:
        _log.info("stopped while starting")
    return 0


def _run(settings: Settings) -> None:
    # On a busy host a late wake-up lets the ring run full, and a slow start misses faults; it takes a few percent.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    listener = Listener(settings.socket, settings.group)  # before the probes: a second collector ends at once
    with contextlib.ExitStack() as stack:
        stack.callback(listener.close)
        try:
            probes = stack.enter_context(
                load(
                    strategy=settings.strategy,
                    ring_bytes=settings.ring_bytes,
                    max_vcpus=settings.max_vcpus,
                    max_vms=settings.max_vms,
                    only=only(settings.only_pid_tree, settings.only_cgroup),
                )
            )
            if os.geteuid() != 0:  # a module's types are read: what loaded the probes is not needed to run them
                rights.give_up("CAP_SYS_ADMIN")
            recording = Recording(settings.record, settings.record_seconds) if settings.record else None
            collector = Collector(probes, listener, recording, settings.qmp, follow=not settings.no_qmp)
        except OSError as error:
            raise refused(error, "cannot start") from None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _frame: collector.stop(signal.Signals(number).name))
        attached = sum(hook.status == "attached" for hook in probes.hooks)
        _log.info("%d of %d hooks attached, listening on %s", attached, len(probes.hooks), settings.socket)
        collector.run()


@dataclass(slots=True)
class _Task:
    """run returns after how many seconds it wants to run again."""

    run: Callable[[], float]
    due: float = 0.0


class Collector:
    """Moves data from the probes to the clients until `stop`. qmp: monitors given; follow: whether VMMs are asked."""

    def __init__(
        self,
        probes: Probes,
        listener: Listener,
        recording: Recording | None = None,
        qmp: Sequence[str] = (),
        follow: bool = True,
    ) -> None:
        self._probes = probes
        self._recording = recording
        self._started_ns = time.monotonic_ns()
        self._stop_reason: str | None = None
        self._ring = RingReader(probes.ring_fd, probes.ring_bytes, FAULT_DTYPE)
        self._reader = TotalsReader(probes)
        self._totals = Totals(
            np.empty(0, "<u4"),
            np.empty(0, VCPU_DTYPE),
            np.empty(0, "<i8"),
            np.empty(0, VM_DTYPE),
            np.empty(0, CELL_DTYPE),
        )
        self._ledger = Ledger(probes.hooks)
        self._vms: list[dict[str, Any]] = []  # as told last
        self._found: list[dict[str, Any]] | None = None  # and not told yet
        self._migrations: dict[int, Message] = {}  # the newest of each VM
        self._untold: list[Message] = []  # of VMs that are in _found
        self._first_ns: dict[int, int] = {}  # VM number -> when it was seen first
        self._rows_key = b""
        self._asked_ns = 0
        self._hold_until_ns = 0
        self._polled_ns = self._started_ns
        self._ending: dict[int, int] = {}  # VM number -> when it was found gone
        self._drain_s = _DRAIN_S
        self._profile = profiles.of_this_kernel()
        self._selector = selectors.DefaultSelector()
        self._publisher = Publisher(listener, self._selector, self._welcome)
        self._observer = Observer(self._selector, self, qmp, follow, probes.only)
        self._tick_task = _Task(self._tick)

    def stop(self, reason: str) -> None:
        """Let `run` return; safe in a signal handler."""
        self._stop_reason = reason

    def run(self) -> None:
        """Until `stop`: serve the clients, and call each task when it is due."""
        tick = self._tick_task
        tasks = (_Task(self._drain), tick, _Task(self._forget_stale))
        self._record(self._welcome())
        while self._stop_reason is None:
            for task in tasks:
                if time.monotonic() >= task.due:
                    task.due = time.monotonic() + task.run()
            if not self._held and self._reader.rows_changed():  # a VM may live for less than a tick: look at once
                tick.due = 0.0
            timeout = max(min(task.due for task in tasks) - time.monotonic(), 0)
            for key, mask in self._selector.select(timeout):
                key.data(mask)
        self._drain()
        self._publish()
        self._observer.close()
        self._publisher.close(self._stop_reason)
        if self._recording:
            self._recording.close(self._stop_reason)
        self._selector.close()

    def _drain(self) -> float:
        """Publish all finished records; sooner again the fuller the ring was."""
        fill = self._ring.fill
        if fill > 0.25:
            self._drain_s = max(self._drain_s / 4, _DRAIN_MIN_S)
        elif fill < 0.1:
            self._drain_s = min(self._drain_s * 2, _DRAIN_S)
        for _ in range(_MAX_BATCHES):
            try:
                records = self._ring.read(BATCH_RECORDS)
            except RingError as error:
                if not self._ledger.own("ring_error"):
                    _log.error("%s; skipped, and so will be others like it", error)
                self._ledger.add("ring_error")
                self._ring.skip_bad()
                continue
            if len(records):
                self._observer.note(records)
                self._publisher.publish_faults(records)
                self._record([Message(Kind.FAULTS, time.monotonic_ns(), {"dropped": 0}, {"records": records})])
            if len(records) < BATCH_RECORDS:
                break
        return self._drain_s

    @property
    def _held(self) -> bool:
        """Whether totals wait for names that were asked for."""
        return self._observer.asked and time.monotonic_ns() < self._hold_until_ns

    def _tick(self) -> float:
        """Publish the totals, and before them who the VMs are, when that may have changed."""
        now_ns = time.monotonic_ns()
        self._observer.check()
        self._probes.look_for_ended()
        rows = self._reader.rows()
        self._probes.grow(len(rows.slots))
        rows_key = _rows_key(rows)
        due = rows_key != self._rows_key or now_ns - self._asked_ns >= _DISCOVERY_NS
        if due and self._observer.ask(Rows.of(rows), self._probes.readers()):
            if rows_key != self._rows_key:
                self._hold_until_ns = now_ns + _NAMING_NS
            self._rows_key, self._asked_ns = rows_key, now_ns
        if self._held:
            return (self._hold_until_ns - now_ns) / 1e9
        self._publish()
        return _TOTALS_S

    def _publish(self) -> None:
        now_ns = time.monotonic_ns()
        if self._ending:
            self._drain()  # what a VM's faults left in the ring belongs before its end
        self._polled_ns = time.monotonic_ns()
        self._totals = self._reader.poll()
        # A VM that was found gone gets one more look at its totals; only then do clients hear of its end.
        final = set(self._ending)
        if self._found is not None:
            self._vms, self._found = self._present(self._found, now_ns), None
            gone = {vm["vm"] for vm in self._vms if vm["state"] == "gone"}
            final &= gone
            self._ending = {number: self._ending.get(number, now_ns) for number in gone}
            self._send_vms([vm | {"state": "running"} for vm in self._vms])
            for message in self._untold:
                self._send(message)
            self._untold.clear()
        self._send_totals()
        if final:
            self._send_vms([vm if vm["vm"] in final else vm | {"state": "running"} for vm in self._vms])
            self._retire(final, now_ns)

    def _present(self, found: list[dict[str, Any]], now_ns: int) -> list[dict[str, Any]]:
        """Those of the VMs found that still have a row; a VMM's short test of KVM, without a vCPU, is none."""
        totals = self._totals
        active = totals.vms["events_read"] + totals.vms["fills_demand"].sum(1) + totals.vms["fills_background"].sum(1)
        known = set(totals.vms["vm"].tolist()) | set(totals.vcpus["vm"].tolist())
        born = set(totals.vms["vm"][active > 0].tolist()) | set(totals.vcpus["vm"].tolist())
        self._first_ns = {number: self._first_ns.get(number, now_ns) for number in known}
        born |= {number for number, first_ns in self._first_ns.items() if now_ns - first_ns >= _UNBORN_NS}
        ended = {vm["vm"] for vm in found if vm["state"] == "gone"} & known - born
        if ended:
            self._retire(ended, now_ns)
        not_counted = dict(zip(totals.vms["vm"].tolist(), totals.vms["not_counted"].tolist(), strict=True))
        return [vm | {"not_counted": not_counted.get(vm["vm"], 0)} for vm in found if vm["vm"] in born & known]

    def found_vms(self, vms: list[dict[str, Any]]) -> None:
        """See observer.Listener."""
        self._found = vms
        self._tick_task.due = 0.0

    def found_migration(self, meta: dict[str, Any], time_ns: int) -> None:
        """See observer.Listener."""
        message = Message(Kind.MIGRATION, time_ns, meta)
        self._migrations[meta["vm"]] = message
        if self._found is None:
            self._send(message)
        else:
            self._untold.append(message)

    def found_seed(self, tid: int, vcpu_fd: int) -> None:
        """See observer.Listener."""
        self._probes.seed_thread(tid, vcpu_fd)
        _log.info("thread %d was running a vCPU already", tid)

    def _retire(self, final: set[int], now_ns: int) -> None:
        """Give the slots of gone VMs back, once every client knows their last totals or took too long."""
        if self._publisher.behind:
            final = {number for number in final if now_ns - self._ending.get(number, now_ns) >= _RETIRE_NS}
        if not final:
            return
        numbers = np.array(sorted(final), "<u4")
        totals = self._totals
        rows, vms = np.isin(totals.vcpus["vm"], numbers), np.isin(totals.vms["vm"], numbers)
        for slot in (vcpu_slots := totals.slots[rows].tolist()):
            self._reader.clear_vcpu(slot)
        self._ledger.add_unmatched(self._probes.free_vcpu_slots(vcpu_slots))
        for slot in (vm_slots := totals.vm_slots[vms].tolist()):
            self._reader.clear_vm(slot)
        self._probes.free_vm_slots(vm_slots)
        for number in final:
            self._ending.pop(number, None)
            self._migrations.pop(number, None)
            self._first_ns.pop(number, None)
        self._observer.forget(final)
        self._vms = [vm for vm in self._vms if vm["vm"] not in final]
        self._totals = Totals(
            totals.slots[~rows], totals.vcpus[~rows], totals.vm_slots[~vms], totals.vms[~vms], totals.cells
        )

    def _forget_stale(self) -> float:
        """Fills whose waiter never came back, from time to time."""
        self._probes.forget_stale(time.monotonic_ns())
        return _STALE_S

    def _welcome(self) -> list[Message]:
        now_ns = time.monotonic_ns()
        running = {vm["vm"] for vm in self._vms if vm["state"] == "running"}
        hello = {
            "version": __version__,
            "host": platform.node(),
            "kernel": platform.release(),
            "cpus": os.cpu_count(),
            "started_ns": self._started_ns,
            "capabilities": {"hooks": list(map(dataclasses.asdict, self._probes.hooks)), "profile": self._profile},
            "max_vcpus": self._probes.max_vcpus,
            "max_vms": self._probes.max_vms,
            "only": self._probes.only.told,
        }
        return [
            Message(Kind.HELLO, now_ns, hello),
            self._vms_message([vm | {"state": "running"} for vm in self._vms]),
            self._totals_message(snapshot=True),
            *(message for number, message in self._migrations.items() if number in running),
        ]

    def _send_vms(self, vms: list[dict[str, Any]]) -> None:
        self._publisher.publish_vms(message := self._vms_message(vms))
        self._record([message])

    def _vms_message(self, vms: list[dict[str, Any]]) -> Message:
        users = [dataclasses.asdict(share) | {"user": user} for user, share in self._probes.users().items()]
        return Message(Kind.VMS, time.monotonic_ns(), {"vms": vms, "users": users})

    def _send(self, message: Message) -> None:
        self._publisher.publish(message)
        self._record([message])

    def _send_totals(self) -> None:
        message = self._totals_message(snapshot=False)
        self._publisher.publish_totals(message, lambda: self._totals_message(snapshot=True))
        self._record([message])

    def _totals_message(self, snapshot: bool) -> Message:
        totals = self._totals
        arrays = {
            "slots": totals.slots,
            "vcpus": totals.vcpus,
            "vms": totals.vms,
            "cells": self._reader.all_cells(totals.slots) if snapshot else totals.cells,
            "hardware": self._reader.all_hardware(totals.slots) if snapshot else totals.hardware,
        }
        loss = self._ledger.merged(self._reader.loss(), self._publisher.dropped)
        meta = {"snapshot": snapshot, "loss": loss, "polled_ns": self._polled_ns}
        return Message(Kind.TOTALS, time.monotonic_ns(), meta, arrays)

    def _record(self, messages: list[Message]) -> None:
        if self._recording is None or self._recording.over:
            return
        try:
            for message in messages:
                self._recording.write(message)
        except RecordingError as error:
            self._ledger.add("recording_error")
            _log.error("%s; recording stopped", error)


def _rows_key(totals: Totals) -> bytes:
    """Differs when a VM or vCPU has come, gone or ended."""
    columns = [totals.vcpus[name].tobytes() for name in ("vm", "vcpu", "tid", "exited")]
    return b"".join((totals.slots.tobytes(), *columns, totals.vms["vm"].tobytes(), repr(sorted(totals.ended)).encode()))
