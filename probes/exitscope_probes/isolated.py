"""How Python is started on a module of ours: nothing of the current directory or of PYTHON* variables runs in it."""

import site
import sys
from pathlib import Path


def python(module: str, *arguments: str) -> list[str]:
    """The command line of a child process that runs `module`, one that is installed, with these arguments.

    With -I neither the current directory nor PYTHONPATH, PYTHONHOME and their kin are looked at. Packages installed
    with `pip install --user` would be left out, too; where ours is one of them, they are kept.
    """
    flags = ["-P", "-E"] if _installed_for_user() else ["-I"]
    return [sys.executable, *flags, "-m", module, *arguments]


def _installed_for_user() -> bool:
    return bool(site.ENABLE_USER_SITE) and Path(__file__).is_relative_to(site.getusersitepackages())
