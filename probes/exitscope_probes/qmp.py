"""QEMU's machine protocol, as much of it as watching takes: one greeting, some questions, their answers.

Without any input or output of its own. The peer is a process that its guest may have taken over: whatever it sends is
bounded in bytes, messages and depth, and either understood or a QmpError.
"""

import json
from collections.abc import Sequence
from typing import Any, Final

MAX_BYTES: Final = 256 << 10  # of a whole session: real ones have 6 KiB, and 10 bytes more for each vCPU
MAX_MESSAGES: Final = 64  # events may come in between
QUERIES: Final = ("query-status", "query-migrate", "query-migrate-capabilities", "query-migrate-parameters")
"""All that is ever asked, since QEMU 0.14, 0.14, 1.2 and 2.4: they change nothing."""
OFTEN: Final = QUERIES[:2]  # the others change when somebody sets them
_NEGOTIATION: Final = "qmp_capabilities"


class QmpError(Exception):
    """What came is no QMP; one short sentence."""


class Session:
    """From the greeting to the last answer. answers: what each query returned so far, None for one QEMU refuses.

    queries: what to ask, of QUERIES. QEMU takes in its monitor's input byte by byte, each by a system call or two
    (monitor/monitor.c, monitor_can_read), so the questions are short.
    """

    def __init__(self, queries: Sequence[str] = QUERIES) -> None:
        self._commands = (_NEGOTIATION, *queries)  # a command's id is its place here
        self.greeted = False
        self.answers: dict[str, Any] = {}
        self._negotiated = False
        self._bytes = 0
        self._messages = 0
        self._line = bytearray()  # one that has not ended yet
        self._pretty: list[bytes] | None = None  # lines of a message over several lines, as by -qmp-pretty

    @property
    def done(self) -> bool:
        """All has been answered."""
        return self._negotiated and len(self.answers) == len(self._commands) - 1

    def receive(self, data: bytes) -> bytes:
        """Take what came; returns what is to be sent now, b"" mostly. Raises QmpError."""
        self._bytes += len(data)
        if self._bytes > MAX_BYTES:
            raise QmpError(f"more than {MAX_BYTES >> 10} KiB")
        before = self.greeted
        *lines, rest = data.split(b"\n")
        for line in lines:
            if self.done:
                break
            whole, self._line = bytes(self._line + line).rstrip(), bytearray()
            self._take_line(whole)
        self._line += rest
        return self._questions() if self.greeted and not before else b""

    def _questions(self) -> bytes:
        commands = [{"execute": name, "id": i} for i, name in enumerate(self._commands)]
        return "".join(json.dumps(command, separators=(",", ":")) + "\n" for command in commands).encode()

    def _take_line(self, line: bytes) -> None:
        """A message is one line; or, if that is a lone brace, all up to a lone closing one, which is not indented."""
        if self._pretty is not None:
            self._pretty.append(line)
            if line == b"}":
                whole, self._pretty = b"\n".join(self._pretty), None
                self._take(whole)
        elif line == b"{":
            self._pretty = [line]
        elif line:
            self._take(line)

    def _take(self, text: bytes) -> None:
        self._messages += 1
        if self._messages > MAX_MESSAGES:
            raise QmpError(f"more than {MAX_MESSAGES} messages")
        try:
            message = json.loads(text)
        except (ValueError, RecursionError):
            raise QmpError(f"no JSON: {_start(text)}") from None
        if not isinstance(message, dict):
            raise QmpError(f"no JSON object: {_start(text)}")
        if not self.greeted:
            if not isinstance(message.get("QMP"), dict):
                raise QmpError(f"no QMP greeting: {_start(text)}")
            self.greeted = True
        elif "event" not in message:
            self._take_answer(message, text)

    def _take_answer(self, message: dict[str, Any], text: bytes) -> None:
        number, refused = message.get("id"), isinstance(message.get("error"), dict)
        if not refused and "return" not in message:
            raise QmpError(f"neither an answer nor an event: {_start(text)}")
        name = None
        if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(self._commands):
            name = self._commands[number]
        if name == _NEGOTIATION and not self._negotiated and not refused:
            self._negotiated = True
        elif name and name != _NEGOTIATION and self._negotiated and name not in self.answers:
            self.answers[name] = None if refused else message["return"]
        else:
            raise QmpError(f"an answer to nothing that was asked: {_start(text)}")


def _start(text: bytes) -> str:
    """What may be logged of somebody else's text."""
    return ascii(text[:40].decode(errors="replace"))
