"""One set of probes for the tests that do not need their own: loading takes seconds."""

import functools
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from exitscope_probes.hooks import STRATEGIES
from tests.kernel import harness
from tests.kernel.harness import Watch
from tests.product import Product, products


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strategy", choices=STRATEGIES, help="attach the probes this way only")


def pytest_configure(config: pytest.Config) -> None:
    harness.DEFAULTS["strategy"] = config.getoption("--strategy", None)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """compiled("vms"): the program of vms.c, which lies beside this file."""

    @functools.cache
    def compile_once(name: str) -> Path:
        binary = tmp_path_factory.mktemp(name) / name
        source = Path(__file__).with_name(f"{name}.c")
        subprocess.run(["cc", "-std=gnu11", "-O1", "-pthread", "-o", binary, source], check=True, timeout=120)
        return binary

    return compile_once


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


@pytest.fixture
def start() -> Iterator[Callable[..., Product]]:
    """start("run"): the whole product, as that command starts it; it ends with the test."""
    with products() as started:
        yield started
