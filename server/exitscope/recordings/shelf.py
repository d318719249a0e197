"""The directory of the recordings: which files make one, what each says, and how one is found by its name.

ID.parquet: finished; ID.spool: running, left by a killed process, or not to be read; ID.failed: JSON that says why
there is no file yet; .shelf: clock.py. The directory has mode 0700, its files 0600. Names are made here only, from ids
that were checked; links are not followed.
"""

import os
import re
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Final

from ..errors import UserError
from .clock import FolderClock
from .file import RecordingFile
from .finish import finish
from .meta import RecordingMeta, origin
from .plainfile import open_regular
from .room import room_left
from .spool import SpoolError, claimed, is_orphan, read_spool

_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SUFFIXES: Final = ("parquet", "spool", "failed")
_MAX_REASON_BYTES: Final = 64 << 10


class Shelf:
    """One directory. Ids that are none raise FileNotFoundError, as do those of which there is nothing."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        self.clock = FolderClock(self.directory)
        self._known: dict[str, tuple[int, int, RecordingFile]] = {}  # id -> (mtime, size, file)
        self._reasons: dict[str, RecordingMeta] = {}  # what could not be written down: the disk may be full

    def make(self) -> None:
        """Make the directory where it is missing. Raises OSError."""
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def unwritable(self) -> str | None:
        """Why no recording can be written here, by a try; None if one can. Makes the directory where it is missing."""
        try:
            self.make()
            with TemporaryFile(dir=self.directory):
                pass
            if room_left(str(self.directory)) <= 0:
                return f"the disk of {self.directory} is full"
        except OSError as error:
            return f"cannot write to {self.directory}: {error.strerror or error}"
        return None

    def path(self, recording_id: str, suffix: str) -> Path:
        """Of one of a recording's files."""
        if not _ID.fullmatch(recording_id):
            raise FileNotFoundError(recording_id)
        return self.directory / f"{recording_id}.{suffix}"

    def ids(self) -> list[str]:
        """Of all recordings there are."""
        found = set(self._reasons)
        with suppress(OSError):
            for path in self.directory.iterdir():
                if path.suffix.removeprefix(".") in _SUFFIXES and _ID.fullmatch(path.stem):
                    found.add(path.stem)
        return sorted(found)

    def file(self, recording_id: str) -> RecordingFile:
        """The finished file, its footer read once. Raises UserError if it is none.

        One that was copied or renamed is called like its file, and was not made here.
        """
        path = self.path(recording_id, "parquet")
        there = path.lstat()
        known = self._known.get(recording_id)
        if known is None or known[:2] != (there.st_mtime_ns, there.st_size):
            file = RecordingFile.open(path, follow=False)
            if file.meta.id != recording_id:
                file.meta.id, file.meta.shelf = recording_id, None
                for migration in file.meta.migrations:
                    migration.recording = recording_id
            self._known[recording_id] = known = (there.st_mtime_ns, there.st_size, file)
        return known[2]

    def meta_and_size(self, recording_id: str) -> tuple[RecordingMeta, int]:
        """What it says of itself, whatever there is of it, and its bytes on disk."""
        try:
            return self._meta_and_size(recording_id)
        except FileNotFoundError:
            raise
        except OSError as error:  # one bad file is one bad entry
            note = f"cannot be read: {error.strerror or error}"
            return RecordingMeta(id=recording_id, state="failed", complete=False, note=note), 0

    def _meta_and_size(self, recording_id: str) -> tuple[RecordingMeta, int]:
        with suppress(FileNotFoundError):
            try:
                file = self.file(recording_id)
                return file.meta, file.size_bytes
            except UserError as error:
                size_bytes = self.path(recording_id, "parquet").lstat().st_size
                return RecordingMeta(id=recording_id, state="failed", complete=False, note=str(error)), size_bytes
        spool = self.path(recording_id, "spool")
        reason = self._reason(recording_id)
        try:
            there = spool.lstat()
        except FileNotFoundError:
            if reason is None:
                raise
            return reason, 0
        if not stat.S_ISREG(there.st_mode):
            note = f"{spool.name} is no regular file"
            return RecordingMeta(id=recording_id, state="failed", complete=False, note=note), 0
        if reason is not None:
            return reason, there.st_size
        note = "left by a recorder that was killed: being recovered"
        with suppress(OSError):
            note = note if is_orphan(spool) else "recorded by another process"
        meta = RecordingMeta(id=recording_id, state="recording", complete=False, note=note)
        _add_head(meta, spool)
        return meta, there.st_size

    def keep_reason(self, recording_id: str, reason: str) -> None:
        """Remember why there is no file of a recording; its spool stays."""
        meta = self._reason(recording_id) or RecordingMeta(id=recording_id, state="failed", complete=False)
        meta.note = reason
        if not meta.started_wall_ms or not meta.name:
            _add_head(meta, self.path(recording_id, "spool"))
        self._reasons[recording_id] = meta
        part = self.path(recording_id, "failed.part")
        try:
            self.make()
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(part, flags, 0o600), "w") as file:
                file.write(meta.model_dump_json())
            os.replace(part, self.path(recording_id, "failed"))
        except OSError:
            with suppress(OSError):
                part.unlink()

    def forget_reason(self, recording_id: str) -> None:
        """There is a file now."""
        self._reasons.pop(recording_id, None)
        with suppress(OSError):
            self.path(recording_id, "failed").unlink(missing_ok=True)

    def orphans(self) -> list[str]:
        """Spools that nobody writes to."""
        found = []
        for recording_id in self.ids():
            with suppress(OSError):
                if is_orphan(self.path(recording_id, "spool")):
                    found.append(recording_id)
        return found

    def _reason(self, recording_id: str) -> RecordingMeta | None:
        """Why there is no file; None if nobody has said so."""
        with suppress(ValueError, OSError), os.fdopen(open_regular(self.path(recording_id, "failed")), "rb") as file:
            return RecordingMeta.model_validate_json(file.read(_MAX_REASON_BYTES))
        return self._reasons.get(recording_id)

    def remove(self, recording_id: str) -> None:
        """All its files."""
        self._known.pop(recording_id, None)
        self._reasons.pop(recording_id, None)
        for suffix in (*_SUFFIXES, "parquet.part", "failed.part"):
            self.path(recording_id, suffix).unlink(missing_ok=True)


def new_id() -> str:
    """For a recording that begins now; they sort by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(2)}"


def find(name: str, directory: str | os.PathLike[str] | None = None) -> RecordingFile:
    """A recording by the path of its file or by its id in `directory` (default: of the settings).

    One whose recorder was killed is finished first. Raises UserError if there is none, or if it still runs.
    """
    from ..settings import default_recordings

    path = Path(name)
    if not path.exists() and "/" not in name and _ID.fullmatch(name):
        shelved = Path(directory or os.environ.get("EXITSCOPE_RECORDINGS") or default_recordings()) / f"{name}.parquet"
        if shelved.exists() or shelved.with_suffix(".spool").exists():
            path = shelved
    spool = path if path.suffix == ".spool" else Path(f"{path}.spool")
    if path.suffix == ".parquet" and not spool.exists():
        spool = path.with_suffix(".spool")
    if spool.exists() and (path == spool or not path.exists()):
        path = recovered(spool)
    return RecordingFile.open(path)


def recovered(spool: Path) -> Path:
    """The file of a spool whose recorder was killed. Raises UserError if it still runs or cannot be finished."""
    path = spool.with_suffix("") if spool.with_suffix("").suffix else spool.with_suffix(".parquet")
    try:
        with claimed(spool):
            finish(str(spool), str(path))
            spool.unlink()
    except BlockingIOError:
        raise UserError(f"{spool} is still being recorded: stop it first") from None
    except SpoolError as error:
        raise UserError(f"nothing can be recovered from {spool}: {error}") from None
    except OSError as error:
        raise UserError(f"cannot finish the recording {spool}: {error.strerror or error}") from None
    return path


def _add_head(meta: RecordingMeta, spool: Path) -> None:
    with suppress(SpoolError, OSError, ValueError, TypeError):
        blocks = read_spool(spool)
        said = next(blocks).json()
        blocks.close()
        meta.name, meta.started_wall_ms = str(said.get("name", "")), int(said.get("started_wall_ms") or 0)
        meta.shelf, meta.shelved_ns = origin(said)
    with suppress(OSError):
        meta.started_wall_ms = meta.started_wall_ms or spool.stat().st_mtime_ns // 1_000_000
