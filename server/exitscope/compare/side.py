"""One of the two runs: its file, which VM of it, and what was read from it."""

from dataclasses import dataclass
from typing import Final

from ..errors import UserError
from ..recordings.file import RecordingFile
from ..recordings.meta import RecordedVm, RecordingMeta
from .profile import Profile
from .reading import faults, profile

_MOSTLY: Final = 0.95


@dataclass(frozen=True, slots=True)
class Side:
    """A recording, or one VM of it."""

    letter: str
    meta: RecordingMeta
    vm: str | None
    profile: Profile

    @classmethod
    def of(cls, letter: str, recording: RecordingFile, vm: str | None = None) -> "Side":
        """Raises UserError if the recording has no such VM."""
        meta = recording.meta
        if vm is not None and meta.vm(vm) is None:
            known = ", ".join(one.id for one in meta.vms) or "none"
            raise UserError(f"{meta.name or meta.id} has no VM {vm}: its VMs are {known}")
        return cls(letter, meta, vm, profile(recording, vm))

    @property
    def vms(self) -> list[RecordedVm]:
        """The VMs that are compared: the one asked for, or those that faulted meanwhile, or else all."""
        if self.vm is not None:
            return [one for one in self.meta.vms if one.id == self.vm]
        return [one for one in self.meta.vms if faults(self.meta, one.id)] or self.meta.vms

    @property
    def mode(self) -> str:
        """The mode of its faults; `mixed` if they are not nearly all of one."""
        total = self.profile.modes.total()
        if not total:
            return "no faults"
        name, count = self.profile.modes.most_common(1)[0]
        return name if count >= _MOSTLY * total else "mixed"

    @property
    def title(self) -> str:
        """A (uffd)"""
        return f"{self.letter} ({self.mode})"
