"""Messages across the privilege boundary: versioned, length-prefixed binary frames over a unix socket.

A frame is a 32-byte header, `meta_bytes` of JSON, then the message's arrays in the order of its schema, each
`meta["counts"][name]` items long. A recording of a run is the same frames, one after the other, gzip-compressed.

Kinds (meta fields; arrays):
  HELLO    first on every connection: {"version", "host", "kernel", "cpus", "started_ns", "capabilities", "max_vcpus",
           "max_vms", "only": null, or which VMs alone are traced}
  VMS      when something about the VMs changed, and at least once a second: {"vms": [{"vm", "id", "pid", "name",
           "vmm", "state": "running"|"gone", "vcpus": [{"vcpu", "slot", "tid", "name"}],
           "uffds": [{"fd", "pending", "total"}], "command", "handlers": [{"tid", "name", "cpu_ns", "pid",
           "process": that process's name, "lives": whether it is still there}], "uffd_features": [name], "backing",
           "memory_bytes", "uuid", "domain" (libvirt's), "threads": [{"tid", "name", "role", "cpu_ns"}],
           "user": real user id of the process, "unreadable": null or why the process cannot be looked at now: the
           rest is as it was before, "not_counted": vCPUs that found no room}], "users": [{"user", "vms", "vcpus":
           followed now, "not_counted": VMs and vCPUs that found no room since the start}]};
           backing and memory_bytes are null until a fault has told where guest memory lies, uuid and domain if not
           known; threads are those that are no vCPUs and whose name says what they are for; they and the handlers have
           cpu_ns: CPU time that the thread has had so far, null if unknown
  TOTALS   several times a second: {"snapshot": bool, "loss": {name: n}, "polled_ns": when they were read};
           vcpus VCPU_DTYPE + slots, vms VM_DTYPE, cells CELL_DTYPE, hardware HARDWARE_DTYPE. Counts are since the
           slot began, so a frame that was skipped costs nothing. A snapshot holds every non-empty cell, others only
           those that changed.
  FAULTS   {"dropped": records that this client was too slow to be sent, so far}; records FAULT_DTYPE
  BYE      the collector ends: {"reason"}
  MIGRATION what a VMM says of a migration of its VM, over its monitor: when that changed, once a second while one goes
           on, else every 10 s or so, and for each VM after the first TOTALS of a connection. {"vm", "id": as in VMS,
           "follow": "followed"|"busy"|"refused"|"lost"|"absent", "reason": null or why it is not followed, "socket":
           null or its path, "at_ns": CLOCK_MONOTONIC of the answer} and, from the newest answer, null where the VMM
           does not say: {"status": QEMU's MigrationStatus, "run_state": QEMU's RunState, "role":
           "source"|"destination", "capabilities": [names of those that are on], "total_bytes", "remaining_bytes",
           "transferred_bytes", "page_bytes", "postcopy_requests", "bytes_per_s", "pages_per_s", "dirty_pages_per_s",
           "max_postcopy_bytes_per_s" (0: no limit), "setup_ns", "downtime_ns", "expected_downtime_ns", "total_ns",
           "blocktime_ns": of all vCPUs at once, "vcpu_blocktime_ns": [of each vCPU]}.
           busy: another client has the monitor; refused: it may not be opened, or is not that VMM's; lost: was
           followed, and does not answer any more; absent: no monitor of it is known
"""

import json
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from . import layouts
from .untrusted import parse

MAGIC: Final = b"XSCP"
VERSION: Final = 4  # 2: hardware exits; 3: MIGRATION, cpu_ns; 4: failed_by
OLDEST_VERSION: Final = layouts.OLDEST  # of recordings that are still read
MAX_META_BYTES: Final = 8 << 20
MAX_BODY_BYTES: Final = 48 << 20
"""A snapshot of 4,096 vCPUs with 900 buckets in use each."""

_HEADER: Final = struct.Struct("<4sHHIIQQ")  # magic, version, kind, meta bytes, body bytes, sequence, time_ns
HEADER_BYTES: Final = _HEADER.size


class Kind(IntEnum):
    """What a frame carries."""

    HELLO = 1
    VMS = 2
    TOTALS = 3
    FAULTS = 4
    BYE = 5
    MIGRATION = 6


_SCHEMAS: Final = {Kind.TOTALS: layouts.TOTALS, Kind.FAULTS: layouts.FAULTS}
_LATER: Final = {"hardware"}  # since version 2; a message without it has an empty one


class WireError(ValueError):
    """A frame that does not fit the protocol; the message names what was expected and what came."""


@dataclass(frozen=True, slots=True)
class Header:
    """The fixed part of a frame. time_ns: CLOCK_MONOTONIC when the frame was made."""

    kind: Kind
    meta_bytes: int
    body_bytes: int
    sequence: int
    time_ns: int
    version: int = VERSION

    @property
    def rest_bytes(self) -> int:
        """Bytes that follow the header."""
        return self.meta_bytes + self.body_bytes


@dataclass(frozen=True, slots=True)
class Message:
    """One decoded frame. arrays hold what the kind's schema names, shape (n,)."""

    kind: Kind
    time_ns: int
    meta: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    sequence: int = 0


def encode(message: Message) -> bytes:
    """The frame of a message. Raises WireError if an array is missing or has another dtype than its schema."""
    parts: list[bytes] = []
    counts: dict[str, int] = {}
    for name, dtype in _SCHEMAS.get(message.kind, {}).items():
        array = message.arrays.get(name, np.empty(0, dtype) if name in _LATER else None)
        if array is None or array.dtype != dtype:
            raise WireError(f"{message.kind.name}.{name} must be {dtype}, not {getattr(array, 'dtype', None)}")
        counts[name] = len(array)
        parts.append(np.ascontiguousarray(array).tobytes())
    meta = dict(message.meta)
    if counts:
        meta["counts"] = counts
    encoded = json.dumps(meta, separators=(",", ":")).encode()
    body_bytes = sum(map(len, parts))
    header = _HEADER.pack(MAGIC, VERSION, message.kind, len(encoded), body_bytes, message.sequence, message.time_ns)
    return b"".join((header, encoded, *parts))


def decode_header(data: bytes) -> Header:
    """Raises WireError on a wrong magic, version, kind or an excessive length."""
    if len(data) != HEADER_BYTES:
        raise WireError(f"frame header has {len(data)} bytes, expected {HEADER_BYTES}: truncated?")
    magic, version, kind, meta_bytes, body_bytes, sequence, time_ns = _HEADER.unpack(data)
    if magic != MAGIC:
        raise WireError(f"not an exitscope frame: starts with {magic!r}, expected {MAGIC!r}")
    if not OLDEST_VERSION <= version <= VERSION:
        raise WireError(f"frame version {version}, this side speaks {VERSION}: run the same release on both sides")
    try:
        known = Kind(kind)
    except ValueError:
        raise WireError(f"unknown frame kind {kind}") from None
    if meta_bytes > MAX_META_BYTES or body_bytes > MAX_BODY_BYTES:
        raise WireError(f"frame of {meta_bytes} + {body_bytes} bytes, allowed {MAX_META_BYTES} + {MAX_BODY_BYTES}")
    if time_ns >= layouts.LONGEST_NS:
        raise WireError(f"frame of the moment {time_ns}: CLOCK_MONOTONIC does not reach that")
    return Header(known, meta_bytes, body_bytes, sequence, time_ns, version)


def decode_body(header: Header, rest: bytes) -> Message:
    """The message of a header and the `header.rest_bytes` after it, in the newest layout.

    Arrays are read-only views of `rest`, where the layout has not changed. Raises WireError when the sizes do not fit,
    naming both, when the meta is not what untrusted.py believes, or an array is not what layouts.py believes.
    """
    if len(rest) != header.rest_bytes:
        raise WireError(f"{header.kind.name} frame has {len(rest)} bytes, its header says {header.rest_bytes}")
    try:
        meta = parse(rest[: header.meta_bytes])
    except ValueError as error:
        raise WireError(f"{header.kind.name} frame: meta: {error}") from None
    counts = meta.pop("counts", {})
    arrays: dict[str, npt.NDArray[Any]] = {}
    offset = header.meta_bytes
    schema = _SCHEMAS.get(header.kind, {})
    for name, dtype in (layouts.of(schema, header.version) if schema else schema).items():
        count = counts.get(name, 0 if name in _LATER else None) if isinstance(counts, dict) else None
        end = offset + (count if isinstance(count, int) and count >= 0 else -1) * dtype.itemsize
        if not isinstance(count, int) or count < 0 or end > len(rest):
            raise WireError(
                f"{header.kind.name}.{name}: {str(count)[:40]} items of {dtype.itemsize} bytes do not fit into the "
                f"{len(rest) - offset} bytes left"
            )
        if count > layouts.MOST[name]:
            raise WireError(f"{header.kind.name}.{name}: {count} items, allowed {layouts.MOST[name]}")
        arrays[name] = layouts.newest(name, np.frombuffer(rest, dtype, count, offset))
        if complaint := layouts.wrong(name, arrays[name]):
            raise WireError(f"{header.kind.name}.{name}: {complaint}")
        offset = end
    if offset != len(rest):
        raise WireError(f"{header.kind.name} frame: {len(rest) - offset} bytes more than its arrays need")
    for name in schema.keys() - arrays.keys():
        arrays[name] = np.empty(0, schema[name])
    return Message(header.kind, header.time_ns, meta, arrays, header.sequence)
