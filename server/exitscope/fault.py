"""One fault record for a person to read."""

from typing import Any

from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    EXIT_STAGES,
    MEMSLOT_UNKNOWN,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODES,
    RESOLVERS,
    UFFD_STAGES,
)

from .aggregate import Aggregate
from .page import access_names, error_name, flag_names, inferred, presence_name
from .slowest import STAGE_FIELDS, latency_ns


def described(aggregate: Aggregate, record: Any, profile: dict[str, Any]) -> dict[str, Any]:
    """A FAULT_DTYPE record. profile: frame.profile."""
    names = EXIT_STAGES if record["mode"] in (MODE_EXIT, MODE_MEMORY_FAULT) else UFFD_STAGES
    fields = [name for name in STAGE_FIELDS if len(names) == len(STAGE_FIELDS) or name != "notify_ns"]
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
        "stages_ns": {name: int(record[field]) for name, field in zip(names, fields, strict=True)},
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
