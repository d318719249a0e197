"""One guest, whose own report says how many faults it had and how long they took."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from exitscope_probes.guest.build import GuestBuildError, binary_path

from ..errors import UserError
from .plan import Point
from .process import child

_TIMEOUT_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Measured:
    """By the guest's own count and clock: nothing of the tool's."""

    faults: int
    wall_ns: int

    @property
    def rate_per_s(self) -> float:
        """Faults per second."""
        return self.faults / self.wall_ns * 1e9


def binary() -> Path:
    """The guest. Raises UserError if it cannot be built."""
    try:
        return binary_path()
    except GuestBuildError as error:
        raise UserError(str(error)) from None


def run(program: Path, point: Point, pages: int, seed: int, pause_ms: int = 0) -> Measured:
    """Run it to its end. pause_ms: how long it stays when all is done, to be looked at.

    Raises UserError if it fails or hangs.
    """
    options = ["--mode", point.mode, "--vcpus", point.vcpus, "--pages", max(pages, point.vcpus), "--seed", seed]
    options += ["--pause-ms-before-exit", pause_ms]
    if point.handlers:
        options += ["--handlers", point.handlers]
    name = f"bench-{point.slug}"
    with child([str(program), *map(str, options), "--name", name], subprocess.PIPE, subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise UserError(f"the guest of {point.title} did not end within {_TIMEOUT_S:.0f} s") from None
    if process.returncode:
        said = errors.decode(errors="replace").strip().splitlines()
        raise UserError(f"the guest of {point.title} failed: {said[-1] if said else process.returncode}")
    report = json.loads(output.splitlines()[-1])
    return Measured(int(report["faults"]), max(int(report["wall_ns"]), 1))
