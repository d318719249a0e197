"""The observer's side: looks at strangers' processes and asks their monitors, in a process of its own.

Whatever these processes do to it, the collector goes on with its totals.
"""

import selectors
import time
from typing import Any, Final

from .channel import Channel
from .discovery import Discovery, Rows
from .migration import Follower
from .only import Only
from .reads import Reads
from .seeding import SeedingThread
from .vmids import VmIds
from .wire import Message

_SEED_S: Final = 0.05


class Watcher:
    """Serves one channel until its other end is gone. The arguments are those of migration.Follower and Discovery.

    Takes {"rows": {"vms", "vcpus", "ended"}, "now_ns", "handlers", "readers", "addresses", "forgotten"}, and answers
    with {"vms"}; says {"migration": meta} and {"seed": [thread id, vCPU's descriptor]} by itself. All but rows may be
    absent.
    seed: whose threads are looked for, None if they have been.
    """

    def __init__(
        self, channel: Channel, qmp: list[str], follow: bool, ids: dict[int, str], given: VmIds, seed: Only | None
    ) -> None:
        self._channel = channel
        self._selector = selectors.DefaultSelector()
        reads = Reads()
        self._discovery = Discovery(reads=reads, ids=ids, given=given)
        self._follower = Follower(self._selector, self._say, qmp, follow, reads=reads)
        self._seeding = SeedingThread(seed) if seed else None

    def run(self) -> None:
        """Until the collector ends: raises EOFError or OSError then."""
        follow_s = seed_s = 0.0
        self._selector.register(self._channel, selectors.EVENT_READ, self._receive)
        while True:
            now_s = time.monotonic()
            if now_s >= follow_s:
                follow_s = now_s + self._follower.run()
            if self._seeding and now_s >= seed_s:
                seed_s = now_s + _SEED_S
                self._seed(self._seeding)
            due_s = min(follow_s, seed_s) if self._seeding else follow_s
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._channel.unsent else 0)
            self._selector.modify(self._channel, wanted, self._receive)
            for key, mask in self._selector.select(max(due_s - time.monotonic(), 0)):
                key.data(mask)

    def _receive(self, _mask: int) -> None:
        self._channel.flush()
        for message in self._channel.receive():
            for number in message.get("forgotten", ()):
                self._discovery.forget(number)
            if rows_of := message.get("rows"):
                rows = Rows(**rows_of)
                self._discovery.meet(rows)  # first: a VM's first faults may have been its last
                self._discovery.note_handlers(message.get("handlers", ()))
                self._discovery.note_readers(message.get("readers", ()))
                vms = self._discovery.describe(rows, message["now_ns"])
                self._channel.send({"vms": vms})
                self._follower.see(vms)
            self._discovery.note_addresses(message.get("addresses", ()))

    def _say(self, message: Message) -> None:
        self._channel.send({"migration": message.meta, "time_ns": message.time_ns})

    def _seed(self, seeding: SeedingThread) -> None:
        for tid, fd in seeding.found():
            self._channel.send({"seed": [tid, fd]})
        if seeding.done:
            self._seeding = None


def serve(channel: Channel, **settings: Any) -> None:
    """Serve until the collector is gone."""
    try:
        Watcher(channel, **settings).run()
    except (EOFError, OSError):
        return
