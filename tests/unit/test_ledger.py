"""The loss ledger's names and sums."""

import pytest

from exitscope_probes.ledger import LEDGER, Ledger
from exitscope_probes.plan import HookStatus


def hook(status: str, essential: bool = True) -> HookStatus:
    return HookStatus("h", "H", status, None, (), "e", essential)  # type: ignore[arg-type]


def test_the_names_that_others_build_on() -> None:
    assert {
        "ring_full", "map_full", "unmatched_begin", "unmatched_end", "hook_missing", "slow_client"
    } <= set(LEDGER)  # fmt: skip
    assert len(set(LEDGER)) == len(LEDGER)


def test_every_name_is_always_there_and_no_other() -> None:
    merged = Ledger([]).merged({"ring_full": 3, "beyond": 9}, slow_client=4)
    assert tuple(merged) == LEDGER
    assert {name: count for name, count in merged.items() if count} == {"ring_full": 3, "slow_client": 4}


def test_a_hook_counts_as_missing_when_nothing_makes_up_for_it() -> None:
    hooks = [hook("attached"), hook("missing"), hook("refused"), hook("missing", essential=False)]
    assert Ledger(hooks).merged({}, 0)["hook_missing"] == 2


def test_own_counters_add_up_and_an_unknown_name_is_an_error() -> None:
    ledger = Ledger([])
    ledger.add("ring_error")
    ledger.add("ring_error", 2)
    assert ledger.merged({}, 0)["ring_error"] == 3
    with pytest.raises(KeyError):
        ledger.add("ring_errors")
