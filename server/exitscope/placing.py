"""Which fills place a page: all but UFFDIO_WAKE, which lets waiters look again at one that is there."""

from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from exitscope_probes.records import RESOLVERS

_WAKE: Final = "WAKE"
PLACING: Final = np.array([name != _WAKE for name in RESOLVERS])
"""(len(RESOLVERS),) bool."""


def placing_columns(kind: slice) -> npt.NDArray[np.int64]:
    """Of the columns of one kind of fill, one for each of RESOLVERS: those that do, (n,)."""
    columns: npt.NDArray[np.int64] = kind.start + np.flatnonzero(PLACING)
    return columns


def pages_placed(by_resolver: Mapping[str, int]) -> int:
    """How many of these fills did. by_resolver: name -> count."""
    return sum(count for name, count in by_resolver.items() if name != _WAKE)
