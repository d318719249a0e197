"""Hands frames to every connected client, and never waits for one.

A client that does not keep up loses frames once its buffer is full: fault records for good, and counted;
totals only until a snapshot brings them up to date.
"""

import contextlib
import errno
import logging
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy.typing as npt

from .socketfile import Listener, peer
from .wire import Kind, Message, encode

BUFFER_BYTES: Final = 8 << 20
MAX_CLIENTS: Final = 32
MAX_INPUT_BYTES: Final = 256
_SEND_BUFFER_BYTES: Final = 1 << 20
_BYE_GRACE_S: Final = 1.0

_log = logging.getLogger(__name__)


class _Client:
    """One connection and the frames that it has not taken yet."""

    def __init__(self, connection: socket.socket, buffer_bytes: int) -> None:
        self.connection = connection
        self.pid, self.uid, self.gid = peer(connection)
        self.dropped = 0  # fault records
        self.input_bytes = 0
        self.needs_snapshot = False
        self.needs_vms = False
        self._limit = buffer_bytes
        self._frames: deque[memoryview] = deque()
        self.buffered_bytes = 0

    @property
    def behind(self) -> bool:
        """Something that it must know was not put into its buffer."""
        return self.needs_snapshot or self.needs_vms

    def offer(self, frame: bytes) -> bool:
        """Put a frame into the buffer if there is room; an empty buffer takes a frame of any size."""
        if self._frames and self.buffered_bytes + len(frame) > self._limit:
            return False
        self._frames.append(memoryview(frame))
        self.buffered_bytes += len(frame)
        return True

    def flush(self) -> bool:
        """Send what the socket takes now; True once all is sent. Raises OSError when the client is gone."""
        while self._frames:
            try:
                sent = self.connection.send(self._frames[0])
            except BlockingIOError:
                return False
            self.buffered_bytes -= sent
            if sent == len(self._frames[0]):
                self._frames.popleft()
            else:
                self._frames[0] = self._frames[0][sent:]
        return True


class Publisher:
    """The clients of one listening socket, served from the collector's own selector.

    welcome: the messages that a new client gets first: HELLO, VMS, a snapshot of TOTALS, MIGRATION of each VM.
    """

    def __init__(
        self,
        listener: Listener,
        selector: selectors.BaseSelector,
        welcome: Callable[[], list[Message]],
        buffer_bytes: int = BUFFER_BYTES,
    ) -> None:
        self._listener = listener
        self._selector = selector
        self._welcome = welcome
        self._buffer_bytes = buffer_bytes
        self._clients: set[_Client] = set()
        self._sequence = 0
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self.dropped = 0
        selector.register(listener.socket, selectors.EVENT_READ, self._accept)

    @property
    def clients(self) -> int:
        """How many are connected."""
        return len(self._clients)

    @property
    def behind(self) -> bool:
        """Some client still lacks totals or a VMS message that it must have."""
        return any(client.behind for client in self._clients)

    def publish_vms(self, message: Message) -> None:
        """The list of VMs; a client without room gets a later one."""
        self._publish(message, "needs_vms")

    def publish(self, message: Message) -> None:
        """What will be said again before long; a client without room misses it."""
        self._publish(message, None)

    def publish_totals(self, changes: Message, snapshot: Callable[[], Message]) -> None:
        """Totals with the cells that changed; a client that missed some gets the snapshot instead."""
        frame = self._encode(changes)
        whole: bytes | None = None
        for client in list(self._clients):
            if client.needs_snapshot:
                if client.buffered_bytes * 2 <= self._buffer_bytes:
                    whole = whole or self._encode(snapshot())
                    client.needs_snapshot = not client.offer(whole)
            else:
                client.needs_snapshot = not client.offer(frame)
            self._flush(client)

    def publish_faults(self, records: npt.NDArray[Any]) -> None:
        """A batch of fault records, shape (n,) FAULT_DTYPE; dropped for a client without room."""
        frames: dict[int, bytes] = {}  # by `dropped`, which is a client's own number
        for client in list(self._clients):
            frame = frames.get(client.dropped)
            if frame is None:
                message = Message(Kind.FAULTS, time.monotonic_ns(), {"dropped": client.dropped}, {"records": records})
                frame = frames[client.dropped] = self._encode(message)
            if not client.offer(frame):
                client.dropped += len(records)
                self.dropped += len(records)
            self._flush(client)

    def close(self, reason: str) -> None:
        """Say BYE, give slow clients a second to take what is theirs, and close the socket."""
        self._publish(Message(Kind.BYE, time.monotonic_ns(), {"reason": reason}), None)
        deadline = time.monotonic() + _BYE_GRACE_S
        while self._clients and time.monotonic() < deadline:
            for client in list(self._clients):
                if self._flush(client) and client.buffered_bytes == 0:
                    self._drop(client, "told goodbye")
            time.sleep(0.01)
        for client in list(self._clients):
            self._drop(client, "left without goodbye")
        self._selector.unregister(self._listener.socket)
        self._listener.close()
        os.close(self._spare)

    def _publish(self, message: Message, flag: str | None) -> None:
        frame = self._encode(message)
        for client in list(self._clients):
            missed = not client.offer(frame)
            if flag:
                setattr(client, flag, missed)
            self._flush(client)

    def _encode(self, message: Message) -> bytes:
        self._sequence += 1
        return encode(replace(message, sequence=self._sequence))

    def _accept(self, _mask: int) -> None:
        try:
            connection, _ = self._listener.socket.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._turn_away()
            return  # or gone again already: the next one may be luckier
        connection.setblocking(False)
        if len(self._clients) >= MAX_CLIENTS:
            _log.warning("refused a client: %d are connected already", MAX_CLIENTS)
            connection.close()
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        client = _Client(connection, self._buffer_bytes)
        _log.info("client connected: pid %d, uid %d, gid %d", client.pid, client.uid, client.gid)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, lambda mask: self._serve(client, mask))
        for message in self._welcome():
            if not client.offer(self._encode(message)):
                client.needs_vms |= message.kind is Kind.VMS
                client.needs_snapshot |= message.kind is Kind.TOTALS
        self._flush(client)

    def _turn_away(self) -> None:
        """There is no descriptor for a client that waits, who would wake us up for ever: take it with the spare one."""
        os.close(self._spare)
        with contextlib.suppress(OSError):
            connection, _ = self._listener.socket.accept()
            connection.close()
            _log.warning("refused a client: no file descriptor is left")
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _serve(self, client: _Client, mask: int) -> None:
        if mask & selectors.EVENT_WRITE and not self._flush(client):
            return
        if mask & selectors.EVENT_READ:
            self._read(client)

    def _read(self, client: _Client) -> None:
        """A client has nothing to say to us: only its end of file means something."""
        try:
            data = client.connection.recv(MAX_INPUT_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(client, error.strerror or str(error))
            return
        client.input_bytes += len(data)
        if not data:
            self._drop(client, "closed by the client")
        elif client.input_bytes >= MAX_INPUT_BYTES:
            self._drop(client, "closed: it sends data, and this socket is for reading only")

    def _flush(self, client: _Client) -> bool:
        """Send what can be sent and watch for room for the rest; False once the client is gone."""
        try:
            empty = client.flush()
        except OSError as error:
            self._drop(client, error.strerror or str(error))
            return False
        events = selectors.EVENT_READ if empty else selectors.EVENT_READ | selectors.EVENT_WRITE
        key = self._selector.get_key(client.connection)
        if key.events != events:
            self._selector.modify(client.connection, events, key.data)
        return True

    def _drop(self, client: _Client, reason: str) -> None:
        if client in self._clients:
            self._clients.discard(client)
            self._selector.unregister(client.connection)
            client.connection.close()
            _log.info("client pid %d: %s; %d records were dropped for it", client.pid, reason, client.dropped)
