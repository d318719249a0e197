"""Fault records out of a real BPF program into a real ring, as many and as fast as asked."""

import ctypes
import os
import platform
import threading
import time
from pathlib import Path
from types import TracebackType

import exitscope_probes
from exitscope_probes.headers import stub_tree

BURST = 8
"""Records per run of the program."""

_BPF_PROG_TEST_RUN = 10  # include/uapi/linux/bpf.h
_NR_BPF = {"x86_64": 321, "aarch64": 280}
_EVENTS = Path(exitscope_probes.__file__).parent / "bpf/events.h"
_SOURCE = """
BPF_RINGBUF_OUTPUT(records, RING_PAGES);
BPF_PERCPU_ARRAY(submitted, u64, 1);
BPF_PERCPU_ARRAY(refused, u64, 1);

int produce(void *packet)
{
    int zero = 0;
    u64 *next = submitted.lookup(&zero), *lost = refused.lookup(&zero);
    if (!next || !lost)
        return 0;
#pragma unroll
    for (int i = 0; i < BURST; i++) {
        struct fault_record *record = records.ringbuf_reserve(sizeof(*record));
        if (!record) {
            (*lost)++;
            continue;
        }
        __builtin_memset(record, 0, sizeof(*record));
        record->type = RECORD_FAULT;
        record->size = sizeof(*record);
        record->vcpu = bpf_get_smp_processor_id();
        record->begin_ns = *next;
        record->hva = 2 * *next;
        record->gpa = ~*next;
        if (DISCARD && i == 3) {
            records.ringbuf_discard(record, 1);
            continue;
        }
        (*next)++;
        records.ringbuf_submit(record, 1);
    }
    return 0;
}
"""


class _TestRun(ctypes.Structure):
    """The `test` member of union bpf_attr."""

    _fields_ = (
        ("prog_fd", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("data_in", ctypes.c_uint64),
        ("data_out", ctypes.c_uint64),
        ("repeat", ctypes.c_uint32),
        ("duration", ctypes.c_uint32),
        ("rest", ctypes.c_uint8 * 48),
    )


class Producer:
    """Each processor numbers its records: vcpu is the processor, begin_ns the number, gpa its complement."""

    def __init__(self, ring_bytes: int, discard: bool = False) -> None:
        from bcc import BPF

        self.ring_bytes = ring_bytes
        flags = [f"-DRING_PAGES={ring_bytes // 4096}", f"-DBURST={BURST}", f"-DDISCARD={int(discard)}", "-w"]
        before = os.environ.get("BCC_KERNEL_SOURCE")
        try:
            with stub_tree() as tree:
                os.environ["BCC_KERNEL_SOURCE"] = str(tree)
                self.bpf = BPF(text=(_EVENTS.read_text() + _SOURCE).encode(), cflags=flags)
        finally:
            if before is None:
                del os.environ["BCC_KERNEL_SOURCE"]
            else:
                os.environ["BCC_KERNEL_SOURCE"] = before
        self._program_fd = self.bpf.load_func(b"produce", BPF.SCHED_CLS).fd
        self.ring_fd: int = self.bpf[b"records"].map_fd
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> "Producer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bpf.cleanup()

    def run(self, records: int) -> None:
        """Produce at least so many, rounded up to whole bursts; Python's lock is free meanwhile."""
        packet = (ctypes.c_uint8 * 64)()
        attributes = _TestRun(
            prog_fd=self._program_fd,
            data_size_in=len(packet),
            data_in=ctypes.addressof(packet),
            repeat=-(-records // BURST),
        )
        number = _NR_BPF[platform.machine()]
        result = self._libc.syscall(number, _BPF_PROG_TEST_RUN, ctypes.byref(attributes), ctypes.sizeof(attributes))
        if result < 0:
            raise OSError(ctypes.get_errno(), "BPF_PROG_TEST_RUN: " + os.strerror(ctypes.get_errno()))

    def run_paced(self, records_per_s: float, seconds: float) -> threading.Thread:
        """Start a thread that produces at this rate, in steps of a few milliseconds."""

        def produce() -> None:
            started = time.monotonic()
            done = 0
            while (passed := time.monotonic() - started) < seconds:
                missing = int(passed * records_per_s) - done
                if missing >= BURST:
                    self.run(missing // BURST * BURST)
                    done += missing // BURST * BURST
                else:
                    time.sleep(0.0005)

        thread = threading.Thread(target=produce)
        thread.start()
        return thread

    def submitted(self) -> dict[int, int]:
        """{processor: records that went into the ring to be read}."""
        return {cpu: count for cpu, count in enumerate(self.bpf[b"submitted"][0]) if count}

    def refused(self) -> int:
        """Records that found no room."""
        return sum(self.bpf[b"refused"][0])
