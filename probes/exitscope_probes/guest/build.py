"""Compiles the guest, and says where its binary is."""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).parent
BINARY_NAME = "exitscope-guest"
CFLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread")
LIBRARIES = ("-lm",)
COMPILE_TIMEOUT_S = 120


class GuestBuildError(Exception):
    """The guest cannot be built here; the message says what to do about it, in one line."""


def build(output: Path) -> Path:
    """Compiles the guest to `output` (replaced in one step, so that a running one is never half new).

    Returns `output`. Raises GuestBuildError: not x86-64, no C compiler, no headers, or the compiler fails.
    """
    if platform.machine() != "x86_64":
        raise GuestBuildError(f"the guest runs on x86-64 only, so far; this is {platform.machine()}")
    compiler = shutil.which("cc")
    if compiler is None:
        raise GuestBuildError("no C compiler (cc): install gcc or clang")
    try:
        output.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{BINARY_NAME}-") as scratch:
            compiled = Path(scratch) / BINARY_NAME
            _compile(compiler, compiled)
            compiled.replace(output)
    except OSError as error:
        raise GuestBuildError(f"cannot write {output}: {error.strerror}") from error
    return output


def binary_path() -> Path:
    """The installed binary, `<sys.prefix>/bin/exitscope-guest`, or else one built into the user's cache.

    The cache is `$XDG_CACHE_HOME/exitscope` (default `~/.cache/exitscope`), keyed by a hash of the sources,
    and used only when this user owns it: the guest is often run by root. Raises GuestBuildError, as `build`.
    """
    installed = Path(sys.prefix) / "bin" / BINARY_NAME
    if installed.exists():
        return installed
    directory = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exitscope"
    cached = directory / f"{BINARY_NAME}-{_sources_hash()}"
    if not cached.exists():
        build(cached)
    for path in (directory, cached):
        status = path.stat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise GuestBuildError(f"{path} belongs to another user or is writable by others: remove it")
    return cached


def _compile(compiler: str, output: Path) -> None:
    sources = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    command = [compiler, *CFLAGS, "-o", str(output), *sources, *LIBRARIES]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise GuestBuildError(f"{compiler} did not end within {COMPILE_TIMEOUT_S} s") from error
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error:" in line] or [result.stderr.strip()]
        if "No such file or directory" in errors[0]:
            message = f"a header is missing ({errors[0].strip()}): install libc6-dev and linux-libc-dev"
            raise GuestBuildError(message)
        raise GuestBuildError(f"{compiler} failed: {errors[0].strip()}")


def _sources_hash() -> str:
    digest = hashlib.sha256(" ".join((*CFLAGS, *LIBRARIES)).encode())
    for path in sorted((*SOURCES.glob("*.c"), *SOURCES.glob("*.h"))):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def main() -> None:
    """Builds the guest to the path given: `python -m exitscope_probes.guest.build OUTPUT`."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m exitscope_probes.guest.build OUTPUT\n")
        sys.exit(2)
    try:
        build(Path(sys.argv[1]))
    except GuestBuildError as error:
        sys.exit(f"exitscope guest: {error}")


if __name__ == "__main__":
    main()
