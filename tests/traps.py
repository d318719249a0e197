"""A current directory that must not matter: modules in it, under names that exitscope imports, say when they run."""

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_MODULES: Final = (
    *("exitscope_probes", "click", "numpy", "bcc", "pyarrow", "duckdb", "fastapi", "pydantic", "uvicorn", "starlette"),
    *("anyio", "websockets", "plotly", "prometheus_client", "sitecustomize", "usercustomize", "argparse", "json"),
    *(
        "typing",
        "re",
        "enum",
        "pathlib",
        "inspect",
        "dataclasses",
        "traceback",
        "selectors",
        "logging",
        "ctypes",
        "hashlib",
        "gzip",
        "tempfile",
        "subprocess",
        "socket",
        "asyncio",
        "signal",
        "shutil",
    ),
)
ENTRIES: Final = {
    "script": [sysconfig.get_path("scripts") + "/exitscope"],
    "module": [sys.executable, "-m", "exitscope"],
}
"""The ways to start it. A directory `exitscope`, such as a clone, is what `python -m exitscope` itself looks for."""


class Trap:
    """directory: full of such modules."""

    def __init__(self, place: Path, entry: str) -> None:
        self.directory = place / "trap"
        self.entry = ENTRIES[entry]
        self._said = place / "said"
        self.directory.mkdir()
        for name in _MODULES:
            (self.directory / f"{name}.py").write_text(f"open({str(self._said)!r}, 'a').write({name!r} + ' ')\n")
        if entry == "script":
            (self.directory / "exitscope").mkdir()

    def run(self, *arguments: object) -> tuple[int, str]:
        """Exit status of an exitscope started there, and what it printed."""
        command = [*self.entry, *map(str, arguments)]
        result = subprocess.run(
            command, cwd=self.directory, capture_output=True, text=True, errors="replace", timeout=100, check=False
        )
        return result.returncode, result.stdout + result.stderr

    @property
    def ran(self) -> list[str]:
        """Modules of the directory that ran."""
        return self._said.read_text().split() if self._said.exists() else []


@contextmanager
def trap(place: Path, entry: str) -> Iterator[Trap]:
    """Fails at the end if one of its modules ran."""
    one = Trap(place, entry)
    yield one
    assert one.ran == []
