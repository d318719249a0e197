"""Where bcc comes from: a package of the distribution, for the distribution's own Python."""

import shlex
import sys
from pathlib import Path
from typing import Final

SYSTEM_PYTHON: Final = "/usr/bin/python3"
_INSTALL: Final = "`apt-get install python3-bpfcc` (Fedora: python3-bcc; PyPI's `bcc` is another program)"
_PLACES: Final = ("python3/dist-packages/bcc", "python3*/site-packages/bcc")


def remedy(lib: Path = Path("/usr/lib")) -> str:
    """What to do where this Python does not find bcc. lib: where the distribution keeps its Python packages."""
    installed = any(found for place in _PLACES for found in lib.glob(place))
    venv = f"`{SYSTEM_PYTHON} -m venv --system-site-packages DIRECTORY`, and install exitscope there"
    if sys.base_prefix != "/usr":
        need = "" if installed else f"{_INSTALL}, then "
        return f"{shlex.quote(sys.executable)} is not the distribution's Python, for which bcc is built: {need}{venv}"
    if installed:
        return f"bcc is installed, but {sys.prefix} does not see the distribution's packages: {venv}"
    return _INSTALL if sys.prefix == "/usr" else f"{_INSTALL}, and a venv made with --system-site-packages sees it"
