"""JSON messages between the collector and its observer, over a pair of sockets; neither ever waits for the other."""

import json
import socket
import struct
from typing import Any, Final

_HEADER: Final = struct.Struct("<I")
_RECEIVE_BYTES: Final = 1 << 20


class Channel:
    """One end. Both raise OSError, EOFError when the other end is gone."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self.socket = connection
        self._output = bytearray()
        self._input = bytearray()

    def fileno(self) -> int:
        """For selectors."""
        return self.socket.fileno()

    @property
    def unsent(self) -> bool:
        """Whether the other end has not taken all that was sent."""
        return bool(self._output)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, as much of it as goes now; `flush` sends the rest."""
        text = json.dumps(message, separators=(",", ":")).encode()
        self._output += _HEADER.pack(len(text)) + text
        self.flush()

    def flush(self) -> None:
        """Send what goes now."""
        while self._output:
            try:
                del self._output[: self.socket.send(self._output)]
            except BlockingIOError:
                return

    def receive(self) -> list[dict[str, Any]]:
        """The messages that have come whole."""
        try:
            data = self.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return []
        if not data:
            raise EOFError("the other end is gone")
        self._input += data
        messages = []
        while len(self._input) >= _HEADER.size:
            end = _HEADER.size + _HEADER.unpack_from(self._input)[0]
            if len(self._input) < end:
                break
            messages.append(json.loads(self._input[_HEADER.size : end]))
            del self._input[:end]
        return messages
