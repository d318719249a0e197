"""One set of probes for the tests that do not need their own: loading takes seconds."""

from collections.abc import Iterator

import pytest

from tests.kernel.harness import Watch


@pytest.fixture(scope="session")
def watch() -> Iterator[Watch]:
    """Probes with the collector's own sizes."""
    with Watch() as watch:
        yield watch
