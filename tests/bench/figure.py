"""What every figure comes down to: rows of one table, and the spread of repeated measurements."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple


@dataclass(frozen=True)
class Row:
    """One line of the table. met: None where there is no target, remark: the peer in the same run, and such."""

    what: str
    value: str
    target: str = ""
    met: bool | None = None
    remark: str = ""


@dataclass(frozen=True)
class Effort:
    """How much to measure: `--quick` gives rough numbers, fit only to see that all works."""

    quick: bool

    def rounds(self, full: int) -> int:
        """Repeats of each variant."""
        return 2 if self.quick else full

    def pages(self, full: int) -> int:
        """Pages that a guest touches."""
        return max(full // 8, 2000) if self.quick else full


class Spread(NamedTuple):
    """Repeats of one measurement; formats as `median (min–max)`."""

    middle: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Raises StatisticsError if there is none."""
        return cls(median(values), min(values), max(values))

    def __format__(self, spec: str) -> str:
        return f"{self.middle:{spec}} ({self.lowest:{spec}}–{self.highest:{spec}})"


class BenchError(Exception):
    """A figure that cannot be measured here; the message says why."""
