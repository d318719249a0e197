"""Prometheus's text of any number of scrapers, made beside the event loop."""

import asyncio
from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4


class _Taken(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


Pausing = Iterable[Metric | None]
"""Metrics, and None between them where others may go first."""


def rendered(families: Pausing) -> bytes:
    """The text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Taken([family for family in families if family is not None]))
    return generate_latest(registry)


class Scrapes:
    """One text is made at a time; whoever asks meanwhile gets the same."""

    def __init__(self) -> None:
        self._making: asyncio.Task[bytes] | None = None

    async def text(self, families: Pausing) -> bytes:
        """families: taken on the loop, in pieces, if nobody else's are being made into text."""
        if self._making is None or self._making.done():
            self._making = asyncio.create_task(_made(families))
        return await asyncio.shield(self._making)


async def _made(families: Pausing) -> bytes:
    taken = []
    for family in families:
        if family is None:
            await asyncio.sleep(0)
        else:
            taken.append(family)
    return await asyncio.to_thread(rendered, taken)
