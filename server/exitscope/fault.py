"""One fault record for a person to read."""

from typing import Any

from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    MEMSLOT_UNKNOWN,
    MODES,
    RESOLVERS,
)

from .aggregate import Aggregate
from .lengths import latency_ns, stages_of
from .page import access_names, error_name, flag_names, inferred, presence_name


def described(aggregate: Aggregate, record: Any, profile: dict[str, Any]) -> dict[str, Any]:
    """A FAULT_DTYPE record. profile: frame.profile."""
    vm = aggregate.vms.by_number(int(record["vm"]))
    mode = MODES[record["mode"]] if record["mode"] < len(MODES) else "unknown"
    flags = flag_names(int(record["exit_flags"]), profile)
    page = {
        "gpa": _address(record["gpa"]),
        "hva": _address(record["hva"]),
        "access": access_names(int(record["access"])),
        "memslot": None if record["memslot"] == MEMSLOT_UNKNOWN else int(record["memslot"]),
        "presence": presence_name(int(record["presence"])),
    }
    return {
        "time_ns": int(record["begin_ns"]),
        "vm": vm.id if vm else None,
        "vcpu": int(record["vcpu"]),
        "mode": mode,
        "latency_ns": int(latency_ns(record)),
        "stages_ns": {name: int(record[field]) for name, field in stages_of(mode)},
        **page,
        "inferred": inferred(mode, page, flags),
        "error": error_name(int(record["exit_errno"])),
        "exit_flags": flags,
        "exit_bytes": int(record["exit_size"]) or None,
        "resolver": RESOLVERS[record["resolver"]] if record["resolver"] < len(RESOLVERS) else "unknown",
        "handler_tid": int(record["handler_tid"]),
        "handler": aggregate.threads.named(vm, int(record["handler_tid"])),
        "tid": int(record["tid"]),
    }


def _address(value: Any) -> str | None:
    return None if int(value) == ADDRESS_UNKNOWN else f"{int(value):#x}"
