"""What records say of their VMs is told once, for each VM, and again to an observer that is started anew."""

import socket

import numpy as np

from exitscope_probes.channel import Channel
from exitscope_probes.discovery import MAX_ADDRESSES, MAX_HANDLERS
from exitscope_probes.notes import Notes
from exitscope_probes.observing import Watcher
from exitscope_probes.records import ADDRESS_UNKNOWN, FAULT_DTYPE
from exitscope_probes.vmids import VmIds


def served(*pairs: tuple[int, int], hva: int = ADDRESS_UNKNOWN) -> np.ndarray:  # type: ignore[type-arg]
    records = np.zeros(len(pairs), FAULT_DTYPE)
    records["vm"], records["handler_tid"] = zip(*pairs, strict=True)
    records["hva"] = hva
    return records


def test_each_handler_is_told_when_it_has_served() -> None:
    notes = Notes()
    notes.see(served((1, 7), (2, 8), (1, 0), (1, 9), (1, 7)))
    assert sorted(notes.handlers()) == [(1, 7), (1, 9), (2, 8)]
    assert notes.handlers() == []
    notes.see(served((1, 9)))
    assert notes.handlers() == [(1, 9)]
    notes.tell_again()
    assert sorted(notes.handlers()) == [(1, 7), (1, 9), (2, 8)]
    notes.forget(1)
    notes.tell_again()
    assert notes.handlers() == [(2, 8)]


def test_a_quiet_vm_is_not_hidden_by_a_busy_one() -> None:
    notes = Notes()
    notes.see(served((2, 8), *[(1, 7)] * 16_000))
    assert sorted(notes.handlers()) == [(1, 7), (2, 8)]


def test_the_handlers_that_served_last_are_kept() -> None:
    notes = Notes()
    notes.see(served(*((1, tid) for tid in range(500, 0, -1))))
    assert notes.handlers() == [(1, tid) for tid in range(MAX_HANDLERS, 0, -1)]


def test_addresses_wait_until_their_vm_is_known() -> None:
    notes = Notes()
    notes.see(served((1, 7)))
    for page in range(2 * MAX_ADDRESSES):
        notes.see(served((1, 7), hva=page << 12))
    assert notes.addresses({2}) == []
    assert notes.addresses({1, 2}) == [(1, page << 12) for page in range(MAX_ADDRESSES)]
    assert notes.addresses({1, 2}) == []


def test_who_served_a_vm_that_is_told_in_the_same_message_is_not_forgotten() -> None:
    """All of its faults may have been over before it was known."""
    ours, theirs = (Channel(end) for end in socket.socketpair())
    watcher = Watcher(theirs, qmp=[], follow=False, ids={}, given=VmIds(), seed=None)
    rows = {"vms": [(1, 1 << 22)], "vcpus": [(0, 1, 1 << 22, 0, 1 << 22, 0)]}
    ours.send({"rows": rows, "now_ns": 0, "handlers": [(1, 7)], "forgotten": []})
    watcher._receive(0)
    theirs.flush()
    (answer,) = ours.receive()
    assert [handler["tid"] for handler in answer["vms"][0]["handlers"]] == [7]
