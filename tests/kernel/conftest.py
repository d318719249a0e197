"""One set of probes for the tests that do not need their own: loading takes seconds."""

from collections.abc import Iterator

import pytest

from tests.kernel.harness import Watch


@pytest.fixture(scope="session")
def session_watch() -> Iterator[Watch]:
    """Probes with the collector's own sizes."""
    with Watch() as watch:
        yield watch


@pytest.fixture
def watch(session_watch: Watch) -> Watch:
    """They have seen the guests of every other test, too: room is made for this one's."""
    session_watch.retire()
    return session_watch
