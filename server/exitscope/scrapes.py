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


def rendered(families: Iterable[Metric]) -> bytes:
    """The text."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Taken(list(families)))
    return generate_latest(registry)


class Scrapes:
    """One text is made at a time; whoever asks meanwhile gets the same."""

    def __init__(self) -> None:
        self._making: asyncio.Task[bytes] | None = None

    async def text(self, families: Iterable[Metric]) -> bytes:
        """families: taken here, on the loop, if nobody else's are being made into text."""
        if self._making is None or self._making.done():
            taken = list(families)
            self._making = asyncio.create_task(asyncio.to_thread(rendered, taken))
        return await asyncio.shield(self._making)
