"""One set of probes for the tests that do not need their own: loading takes seconds."""

from collections.abc import Iterator

import pytest

from exitscope_probes.hooks import STRATEGIES
from tests.kernel import harness
from tests.kernel.harness import Watch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strategy", choices=STRATEGIES, help="attach the probes this way only")


def pytest_configure(config: pytest.Config) -> None:
    harness.DEFAULTS["strategy"] = config.getoption("--strategy", None)


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
