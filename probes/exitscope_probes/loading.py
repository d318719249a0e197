"""Programs on their way into the kernel, several at once: its verifier takes most of a start, a processor for each."""

import os
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Final

from .btf import KernelBtf
from .hooks import Attachment, Candidate
from .programs import load

_AT_ONCE: Final = 4


class Loading:
    """Loads what these candidates attach, the largest first; what nobody asked for by the end is given up.

    code: instructions of each program, relocated. The threads end with this object: what rights the process gives up
    later, they do not keep.
    """

    def __init__(self, btf: KernelBtf, code: Mapping[str, bytes], candidates: Iterable[Candidate]) -> None:
        self._btf, self._code = btf, code
        self._pool = ThreadPoolExecutor(min(_AT_ONCE, os.cpu_count() or 1))
        wanted = {made.program: made for one in candidates for made in one.attachments}.values()
        largest_first = sorted(wanted, key=lambda made: -len(code[made.program]))
        self._begun: dict[Attachment, Future[int]] = {
            made: self._pool.submit(self._load, made) for made in largest_first
        }

    def _load(self, attachment: Attachment) -> int:
        return load(self._btf, attachment, self._code[attachment.program])

    def loaded(self, attachment: Attachment) -> int:
        """Descriptor of its program, the caller's from now on. Raises OSError."""
        begun = self._begun.pop(attachment, None)
        return self._load(attachment) if begun is None else begun.result()

    def __enter__(self) -> "Loading":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)
        for begun in self._begun.values():
            if not begun.cancelled() and begun.exception() is None:
                os.close(begun.result())
