"""Where in guest memory the faults are: bins that grow, columns that keep theirs, memory slots, and bounds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.aggregate import Aggregate
from exitscope.frame import build, history, select
from exitscope.gpa import BINS, CELL_DTYPE, MAX_MEMSLOTS, MIN_SHIFT, GpaHistory
from exitscope.source import Status
from exitscope.vms import ALL
from exitscope_probes.records import ADDRESS_UNKNOWN, WAITER_ASYNC, WAITER_OTHER

from .frames import FakeVm, Feeder, S
from .test_aggregate import aggregate_of

KIB, MIB = 1 << 10, 1 << 20


def fault(feeder: Feeder, aggregate: Aggregate, vm: FakeVm, *gpas: int, **fields: Any) -> None:
    aggregate.handle(feeder.records(vm, [1000] * len(gpas), gpa=np.array(gpas, np.uint64), **fields))


def columns(aggregate: Aggregate, vm_id: str) -> list[dict[str, Any] | None]:
    selection = select(aggregate, vm_id)
    return [tick["gpa"] for tick in history(aggregate, selection, 10 * S)["ticks"]]


def memslots(aggregate: Aggregate, vm_id: str) -> list[dict[str, Any]]:
    built = build(aggregate, Status("live"), select(aggregate, vm_id), 10 * S, 1, 0)
    found: list[dict[str, Any]] = built["memslots"]
    return found


def test_bins_double_when_there_are_too_many_and_columns_keep_theirs() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    fault(feeder, aggregate, vm, 0, 0x1234, MIB - 1)
    aggregate.handle(feeder.totals(S))
    fault(feeder, aggregate, vm, *(512 * number * KIB for number in range(BINS - 2)))
    aggregate.handle(feeder.totals(S))
    fault(feeder, aggregate, vm, 3 * MIB, 100 * MIB)
    fault(feeder, aggregate, vm, (1 << 40) + 1)  # far away, and no longer bins for that
    aggregate.handle(feeder.totals(S))
    aggregate.handle(feeder.totals(S))
    assert columns(aggregate, vm.id) == [
        {"bin_bytes": 256 * KIB, "cells": [[0, 2], [3, 1]]},
        {"bin_bytes": 256 * KIB, "cells": [[2 * number, 1] for number in range(BINS - 2)]},
        {"bin_bytes": 512 * KIB, "cells": [[6, 1], [200, 1], [1 << 21, 1]]},
        {"bin_bytes": 512 * KIB, "cells": []},
    ]


def test_faults_of_other_threads_and_without_an_address_are_left_out() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    fault(feeder, aggregate, vm, ADDRESS_UNKNOWN, 3 * MIB)
    fault(feeder, aggregate, vm, 2 * MIB, waiter=WAITER_OTHER, memslot=5)
    fault(feeder, aggregate, vm, MIB, waiter=WAITER_ASYNC)
    aggregate.handle(feeder.totals(S))
    assert columns(aggregate, vm.id) == [{"bin_bytes": 256 * KIB, "cells": [[4, 1], [12, 1]]}]
    assert memslots(aggregate, vm.id) == []


def test_each_vm_has_its_own_space_and_all_together_have_none() -> None:
    feeder = Feeder()
    one, two = feeder.add_vm(1, 1), feeder.add_vm(2, 1)
    aggregate = aggregate_of(feeder)
    both = feeder.records(one, [1] * 4, gpa=np.array([0x1000, 0x2000, 0x1000, 1 << 40], np.uint64))
    both.arrays["records"]["vm"] = [1, 1, 2, 2]
    both.arrays["records"]["memslot"] = [0, 0, 7, 8]
    aggregate.handle(both)
    aggregate.handle(feeder.totals(S))
    assert columns(aggregate, one.id) == [{"bin_bytes": 256 * KIB, "cells": [[0, 2]]}]
    assert columns(aggregate, two.id) == [{"bin_bytes": 256 * KIB, "cells": [[0, 1], [1 << 22, 1]]}]
    assert columns(aggregate, ALL) == [None]
    assert memslots(aggregate, ALL) == [
        {"vm": one.id, "memslot": 0, "from_gpa": 0x1000, "to_gpa": 0x3000},
        {"vm": two.id, "memslot": 7, "from_gpa": 0x1000, "to_gpa": 0x2000},
        {"vm": two.id, "memslot": 8, "from_gpa": 1 << 40, "to_gpa": (1 << 40) + 4096},
    ]


def test_memory_slots_grow_with_what_faults_and_are_bounded() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    for gpa in (0x9000, 0x5FFF, 0x7000):
        fault(feeder, aggregate, vm, gpa, memslot=3)
        aggregate.handle(feeder.totals(S))
    assert memslots(aggregate, vm.id) == [{"vm": vm.id, "memslot": 3, "from_gpa": 0x5FFF, "to_gpa": 0xA000}]
    fault(feeder, aggregate, vm, *range(0, 300 << 12, 4096), memslot=np.arange(300))
    aggregate.handle(feeder.totals(S))
    assert len(memslots(aggregate, vm.id)) == MAX_MEMSLOTS


def test_a_vm_that_is_forgotten_leaves_nothing_and_another_in_its_row_starts_empty() -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1, id="old")
    aggregate = aggregate_of(feeder)
    fault(feeder, aggregate, vm, *range(0, 1000 * MIB, MIB))
    aggregate.handle(feeder.totals(S))
    feeder.remove_vm(1)
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals(601 * S))
    aggregate.handle(feeder.vms_message())
    new = feeder.add_vm(2, 1, id="new")
    aggregate.handle(feeder.vms_message())
    fault(feeder, aggregate, new, 0x1000)
    aggregate.handle(feeder.totals(S))
    assert columns(aggregate, new.id) == [{"bin_bytes": 256 * KIB, "cells": [[0, 1]]}]
    assert aggregate.gpa._spaces.keys() == {"new"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.one_of(st.integers(0, 2**52 - 1), st.integers(0, 2**30)), min_size=1, max_size=90), max_size=9)
)
def test_every_fault_is_in_one_bin_of_its_column(batches: list[list[int]]) -> None:
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    for batch in batches:
        for gpa in batch:  # each one may make the bins of this column longer
            fault(feeder, aggregate, vm, gpa)
        aggregate.handle(feeder.totals(S))
    touched: set[int] = set()
    for batch, column in zip(batches, columns(aggregate, vm.id), strict=True):
        touched |= set(batch)
        assert column is not None
        shift = column["bin_bytes"].bit_length() - 1
        assert len({gpa >> shift for gpa in touched}) <= BINS
        assert shift == MIN_SHIFT or len({gpa >> shift - 1 for gpa in touched}) > BINS  # and no longer than needed
        bins, counts = np.unique(np.array(batch) >> shift, return_counts=True)
        assert column["cells"] == [list(cell) for cell in zip(bins.tolist(), counts.tolist(), strict=True)]


def test_many_faults_are_counted_before_the_tick_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exitscope.gpa._MAX_PENDING", 10)
    feeder = Feeder()
    vm = feeder.add_vm(1, 1)
    aggregate = aggregate_of(feeder)
    for gpa in (*range(0, 150 * MIB, MIB), 1 << 30):
        fault(feeder, aggregate, vm, gpa)
        assert aggregate.gpa._kept <= 11
    aggregate.handle(feeder.totals(S))
    (column,) = columns(aggregate, vm.id)
    assert column == {"bin_bytes": 2 * MIB, "cells": [*([number, 2] for number in range(75)), [512, 1]]}


def test_the_oldest_columns_go_when_there_are_too_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exitscope.gpa.MAX_CELLS", 100)
    kept = GpaHistory(900)
    cells = np.zeros(30, CELL_DTYPE)
    cells["vm_row"], cells["bin"], cells["faults"], cells["shift"] = 4, np.arange(30), 1, 18
    for number in range(10):
        kept.write(number, cells)
    assert [len(column["cells"]) for column in kept.columns(4, 0, 10)] == [0] * 7 + [30] * 3
    for number in range(10, 2000):
        kept.write(number, cells[:0])
    assert kept._kept == 0
    assert len(kept._ticks) == 0
