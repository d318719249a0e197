"""Compiles probes for a VM: two seconds on the host, forty on an emulated processor. Asked for by inside_plugin.py."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from exitscope_probes import compiler

_POLL_S = 0.1


def write_whole(path: Path, content: dict[str, Any]) -> None:
    """A file that nobody sees half written."""
    half = path.with_suffix(".half")
    half.write_text(json.dumps(content))
    half.rename(path)


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Instructions in hexadecimal by program, or an error's message and hint."""
    try:
        compiled = compiler._compile(request["text"], request["numbers"], request["programs"])
    except compiler.LoadError as error:
        return {"error": [error.message, error.hint]}
    return {"programs": {name: code.hex() for name, code in compiled.items()}}


def main(out: Path) -> None:
    """Answers each *.request in a VM's /out by a file *.answer, until killed."""
    while True:
        for request in out.glob("*.request"):
            asked = json.loads(request.read_text())
            request.unlink()
            write_whole(request.with_suffix(".answer"), answer(asked))
        time.sleep(_POLL_S)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
