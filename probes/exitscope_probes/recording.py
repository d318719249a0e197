"""A run as a file: the frames of the socket, one after the other, gzip-compressed.

It appears under its name when it is whole; what is no regular file is written into (output.py).
"""

import gzip
import itertools
import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Final, NoReturn

from .errors import OutputError, RecordingError
from .output import writing
from .wire import Kind, Message, encode

DEFAULT_SECONDS: Final = 60.0
MAX_BYTES: Final = 1 << 30  # before compression
_LEVEL: Final = 6

_log = logging.getLogger(__name__)


class Recording:
    """Writes messages to `path` until `seconds` or MAX_BYTES are over.

    Raises RecordingError when the file cannot be made or written.
    """

    def __init__(self, path: str, seconds: float) -> None:
        self._path = path
        self._deadline = time.monotonic() + seconds
        self._sequence = itertools.count(1)
        self._bytes = 0
        self._file: gzip.GzipFile | None = None
        self._place = ExitStack()
        try:
            self._file = gzip.GzipFile("", "wb", _LEVEL, self._place.enter_context(writing(path)))
        except OutputError as error:
            raise RecordingError(str(error)) from None

    @property
    def over(self) -> bool:
        """Nothing more will be written."""
        return self._file is None

    def write(self, message: Message) -> None:
        """Append one message, or end the recording if it has run for long enough."""
        if self._file is None:
            return
        if time.monotonic() >= self._deadline or self._bytes >= MAX_BYTES:
            self.close("the recording ends here")
            return
        self._append(message)

    def close(self, reason: str) -> None:
        """Append BYE and finish the file; nothing happens the second time."""
        if self._file is None:
            return
        self._append(Message(Kind.BYE, time.monotonic_ns(), {"reason": reason}))
        file, self._file = self._file, None
        try:
            with self._place:
                file.close()
        except OutputError as error:
            raise RecordingError(str(error)) from None
        _log.info("recording finished: %s, %.1f MB before compression", self._path, self._bytes / 1e6)

    def _append(self, message: Message) -> None:
        frame = encode(replace(message, sequence=next(self._sequence)))
        self._bytes += len(frame)
        try:
            if self._file is not None:
                self._file.write(frame)
        except OSError as error:
            self._file = None
            self._give_up(error)

    def _give_up(self, error: OSError) -> NoReturn:
        """What there was under the name stays as it was."""
        try:
            with self._place:
                raise error
        except OutputError as told:
            raise RecordingError(str(told)) from None
