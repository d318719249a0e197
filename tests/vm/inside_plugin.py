"""A plugin for the VMs' pytest: has the host compile the probes, as compile_service.py does."""

import json
import os
import time
from itertools import count
from pathlib import Path
from typing import Final

from exitscope_probes import compiler
from tests.vm.compile_service import write_whole

_OUT: Final = Path("/out")
_numbers = count()


def _compile(text: str, numbers: dict[str, int], programs: list[str]) -> dict[str, bytes]:
    request = _OUT / f"{os.getpid()}-{next(_numbers)}.request"
    write_whole(request, {"text": text, "numbers": numbers, "programs": programs})
    path = request.with_suffix(".answer")
    while not path.exists():  # how long that may take is the host's to say: the clock in here may run too fast
        time.sleep(0.1)
    answer = json.loads(path.read_text())
    if "error" in answer:
        raise compiler.LoadError(*answer["error"])
    return {name: bytes.fromhex(code) for name, code in answer["programs"].items()}


def pytest_configure() -> None:
    """Only what the cache does not hold is asked for."""
    compiler._compile = _compile
