"""numpy dtypes of what leaves the kernel, and the names of its codes: the mirror of bpf/events.h."""

from typing import Final

import numpy as np

from .exit_reasons import HARDWARE_CELLS
from .histogram import BUCKETS

MODES: Final = ("uffd", "exit", "memory_fault", "async", "kernel")
MODE_UFFD, MODE_EXIT, MODE_MEMORY_FAULT, MODE_ASYNC, MODE_KERNEL = range(5)

WAITERS: Final = ("vcpu", "async", "other")
WAITER_VCPU, WAITER_ASYNC, WAITER_OTHER = range(3)

RESOLVERS: Final = (
    *("other", "COPY", "CONTINUE", "ZEROPAGE", "MOVE", "POISON", "WAKE", "MADV_POPULATE", "WRITEPROTECT"),
    "released",  # by no fill: the userfaultfd was closed or unregistered, and the wait ended with it
)
FILLS: Final = ("WRITEPROTECT", *RESOLVERS[1:8])
"""The cells in which fills are counted: each resolver's own, and WRITEPROTECT in that of "other", which never fills."""

FAILURES: Final = ("EEXIST", "EAGAIN", "ENOENT", "ESRCH", "EFAULT", "ENOMEM", "EINVAL", "other")
"""The cells in which failed fills are counted: by their errno."""

SEEN_ACCESS, SEEN_SLEEP, SEEN_READ, SEEN_FILL, SEEN_HALT, SEEN_RANGE, SEEN_NAMED, SEEN_UNFILLED = (
    1 << bit for bit in range(8)
)

ACCESS_READ, ACCESS_WRITE, ACCESS_EXEC = 1, 2, 4
PRESENCES: Final = ("unknown", "missing", "minor", "write-protected", "mapped")
"""Whether the host had the page when the guest asked for it."""
MEMSLOT_UNKNOWN: Final = -1

ADDRESS_UNKNOWN: Final = 0xFFFF_FFFF_FFFF_FFFF
VCPU_OTHER: Final = 0xFFFF_FFFF
RECORD_FAULT: Final = 1

UFFD_STAGES: Final = ("raise", "notify", "serve", "fill", "wake")
EXIT_STAGES: Final = ("raise", "serve", "fill", "reenter")

# Series of the histograms: whole latency per mode, then stages; (family, stage) of each stage series.
STAGE_FAMILIES: Final = ("uffd", "exit", "async")
STAGE_SERIES: Final[tuple[tuple[str, str], ...]] = (
    *(("uffd", stage) for stage in UFFD_STAGES),
    *(("exit", stage) for stage in EXIT_STAGES),
    *(("async", stage) for stage in UFFD_STAGES),
)
SERIES: Final = len(MODES) + len(STAGE_SERIES)

FAULT_DTYPE: Final = np.dtype(
    [
        ("type", "<u2"),
        ("size", "<u2"),
        ("mode", "u1"),
        ("waiter", "u1"),
        ("resolver", "u1"),
        ("seen", "u1"),
        ("vm", "<u4"),
        ("vcpu", "<u4"),
        ("tid", "<u4"),
        ("handler_tid", "<u4"),
        ("begin_ns", "<u8"),
        ("raise_ns", "<u8"),
        ("notify_ns", "<u8"),
        ("serve_ns", "<u8"),
        ("fill_ns", "<u8"),
        ("finish_ns", "<u8"),
        ("hva", "<u8"),
        ("gpa", "<u8"),
        ("exit_flags", "<u8"),
        ("exit_size", "<u8"),
        ("exit_errno", "<i2"),
        ("exit_reason", "<u2"),
        ("access", "u1"),
        ("presence", "u1"),
        ("memslot", "<i2"),
    ]
)
"""struct fault_record; the five stages add up to the whole fault."""

SERIES_DTYPE: Final = np.dtype([("count", "<u8"), ("sum_ns", "<u8"), ("max_ns", "<u8")])

# Names of the exits cells: kvm_run->exit_reason 0-47 (include/uapi/linux/kvm.h), then ways without one.
EXIT_CELLS: Final = 56
_KVM_EXITS: Final = (
    "UNKNOWN EXCEPTION IO HYPERCALL DEBUG HLT MMIO IRQ_WINDOW_OPEN SHUTDOWN FAIL_ENTRY INTR SET_TPR TPR_ACCESS "
    "S390_SIEIC S390_RESET DCR NMI INTERNAL_ERROR OSI PAPR_HCALL S390_UCONTROL WATCHDOG S390_TSCH EPR SYSTEM_EVENT "
    "S390_STSI IOAPIC_EOI HYPERV ARM_NISV X86_RDMSR X86_WRMSR DIRTY_RING_FULL AP_RESET_HOLD X86_BUS_LOCK XEN "
    "RISCV_SBI RISCV_CSR NOTIFY LOONGARCH_IOCSR MEMORY_FAULT TDX ARM_SEA REASON_42 SNP_REQ_CERTS"
).split()
EXIT_NAMES: Final[tuple[str, ...]] = (
    *(f"KVM_EXIT_{name}" for name in _KVM_EXITS),
    *(f"KVM_EXIT_REASON_{number}" for number in range(len(_KVM_EXITS), 48)),
    "KVM_EXIT_REASON_BEYOND_47",
    "EINTR",
    "EFAULT",
    "KVM_EXIT_MEMORY_FAULT/EFAULT",
    "KVM_EXIT_MEMORY_FAULT/EHWPOISON",
    "EAGAIN",
    "ERROR_OTHER",
    "RESERVED_55",
)

VCPU_DTYPE: Final = np.dtype(
    [
        ("vm", "<u4"),
        ("vm_slot", "<u4"),
        ("tgid", "<u4"),
        ("vcpu", "<u4"),
        ("tid", "<u4"),
        ("exited", "<u4"),
        ("open_since_ns", "<u8"),
        ("stall_ns", "<u8"),
        ("unread", "<u8"),
        ("prefetch", "<u8"),
        ("async_tries", "<u8"),
        ("async_repeats", "<u8"),
        ("named_reads", "<u8"),
        ("prefetch_early", "<u8"),
        ("series", SERIES_DTYPE, (SERIES,)),
        ("exits", "<u8", (EXIT_CELLS,)),
        ("reserved", "<u8", (4,)),
    ]
)
"""struct vcpu_totals."""

VM_DTYPE: Final = np.dtype(
    [
        ("vm", "<u4"),
        ("tgid", "<u4"),
        ("kvm", "<u8"),
        ("mm", "<u8"),
        ("events_read", "<u8"),
        ("events_done", "<u8"),
        ("bytes_background", "<u8"),
        ("fills_failed", "<u8"),
        ("fills_demand", "<u8", (len(FILLS),)),
        ("fills_background", "<u8", (len(FILLS),)),
        ("user", "<u4"),
        ("not_counted", "<u4"),
        ("failed_by", "<u8", (len(FAILURES),)),
    ]
)
"""struct vm_totals."""

HISTOGRAM_DTYPE: Final = np.dtype(("<u4", (BUCKETS,)))
"""struct latency_histogram."""

HARDWARE_ROW_DTYPE: Final = np.dtype(
    [
        ("moved", "<u8"),
        ("exit_ns", "<u8"),
        ("cell", "<u4"),
        ("isa", "<u4"),
        ("exit", SERIES_DTYPE, (HARDWARE_CELLS,)),
        ("reserved", "<u8", (2,)),
    ]
)
"""struct hardware_exits: one per vCPU slot."""

HARDWARE_DTYPE: Final = np.dtype(
    [("slot", "<u4"), ("isa", "<u2"), ("cell", "<u2"), ("count", "<u8"), ("sum_ns", "<u8"), ("max_ns", "<u8")]
)
"""One non-empty cell of a hardware_exits row, since the slot began; exit_reasons.name_of(isa, cell) names it."""

CELL_DTYPE: Final = np.dtype([("cell", "<u4"), ("count", "<u8")])
"""One non-empty histogram bucket: cell = (slot * SERIES + series) * BUCKETS + bucket, count since the slot began."""

LOSSES: Final = ("ring_full", "map_full", "unmatched_begin", "unmatched_end", "unreadable", "not_counted")
