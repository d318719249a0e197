"""Which fills place a page: not UFFDIO_WAKE and UFFDIO_WRITEPROTECT, after which waiters go on with what is there."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import FILLS

_NOT_PLACING: Final = frozenset({"WAKE", "WRITEPROTECT"})
PLACING: Final = np.array([name not in _NOT_PLACING for name in FILLS])
"""(len(FILLS),) bool."""


def placing_columns(kind: slice) -> npt.NDArray[np.int64]:
    """Of the columns of one kind of fill, one for each of FILLS: those that do, (n,)."""
    columns: npt.NDArray[np.int64] = kind.start + np.flatnonzero(PLACING)
    return columns


def pages_placed(by_resolver: Mapping[str, int]) -> int:
    """How many of these fills did. by_resolver: name -> count."""
    return sum(count for name, count in by_resolver.items() if name not in _NOT_PLACING)
