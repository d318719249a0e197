"""Which fills place a page: all but UFFDIO_WAKE, which lets waiters look again at one that is there."""

from collections.abc import Mapping
from typing import Final

import numpy as np

from exitscope_probes.records import RESOLVERS

PLACING: Final = np.array([name != "WAKE" for name in RESOLVERS])
"""(len(RESOLVERS),) bool."""


def pages_placed(by_resolver: Mapping[str, int]) -> int:
    """How many of these fills did. by_resolver: name -> count."""
    return sum(count for name, count in by_resolver.items() if name != "WAKE")
