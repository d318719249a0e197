"""The page's files, and plotly.min.js out of the `plotly` package: nothing comes from another host.

Held in memory, because the server may have given up the right to read them (a checkout in root's home);
a file that was changed and can be read is read again.
"""

import hashlib
import mimetypes
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from .errors import UserError

PLOTLY: Final = "plotly.min.js"
_TYPES: Final = {
    ".mjs": "text/javascript",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".css": "text/css",
}


def frontend_directory() -> Path:
    """frontend/ of the checkout that this runs from, or the installed copy. Raises UserError without it."""
    here = Path(__file__).resolve().parent
    for directory in (here.parents[1] / "frontend", here / "frontend"):
        if (directory / "index.html").is_file():
            return directory
    raise UserError(f"the page's files are not next to {here}: install exitscope again")


def plotly_file() -> Path:
    """plotly.min.js as the `plotly` package ships it. Raises UserError without it."""
    spec = find_spec("plotly")  # found, not imported: only the file is wanted
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place, "package_data", PLOTLY)
        if path.is_file():
            return path
    raise UserError("no plotly.min.js in the Python package `plotly`: install exitscope with its server extra")


@dataclass(slots=True)
class _File:
    path: Path
    changed_ns: int = -1
    body: bytes = b""
    etag: str = ""

    def refresh(self) -> None:
        """Read the file if it was changed and can be read."""
        try:
            changed_ns = os.stat(self.path).st_mtime_ns
            if changed_ns != self.changed_ns:
                self.body = self.path.read_bytes()
                self.etag = f'"{hashlib.sha256(self.body).hexdigest()[:32]}"'
                self.changed_ns = changed_ns
        except OSError:
            if self.changed_ns < 0:
                raise

    @property
    def media_type(self) -> str:
        """For content-type; text is UTF-8."""
        kind = _TYPES.get(self.path.suffix) or mimetypes.guess_type(self.path.name)[0] or "application/octet-stream"
        return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


class Page:
    """ASGI app: frontend/ and plotly.min.js, each with an ETag of its content."""

    def __init__(self) -> None:
        directory = frontend_directory()
        found = (path for path in directory.rglob("*") if path.is_file())
        self._files = {path.relative_to(directory).as_posix(): _File(path) for path in found}
        self._files[PLOTLY] = _File(plotly_file())
        for file in self._files.values():
            file.refresh()
        self._files[""] = self._files["index.html"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: D102 (ASGI)
        request = Request(scope)
        if request.method not in {"GET", "HEAD"}:
            raise HTTPException(405, headers={"allow": "GET, HEAD"})
        file = self._files.get(request.url.path.removeprefix(scope.get("root_path", "")).removeprefix("/"))
        if file is None:
            raise HTTPException(404)
        file.refresh()
        known = {tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")}
        headers = {"etag": file.etag, "content-type": file.media_type}
        response = (
            Response(status_code=304, headers=headers) if file.etag in known else Response(file.body, headers=headers)
        )
        await response(scope, receive, send)
