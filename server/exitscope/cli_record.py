"""`exitscope record`: a recording from the command line, while a command runs or until ^C."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import click

from exitscope_probes.errors import OutputError
from exitscope_probes.isolated import python
from exitscope_probes.output import place_of, writing
from exitscope_probes.untrusted import cleaned

from . import words
from .collectorsocket import listens
from .errors import UserError
from .ownfiles import hand_over, make_directory
from .settings import default_recordings, takes

_START_S: Final = 30.0


@takes("socket", "recordings")
@click.command(context_settings={"ignore_unknown_options": True})
@click.option("-o", "--output", type=click.Path(dir_okay=False), help="File to write. [default: among the recordings]")
@click.option("--name", default="", help="What to call the recording.")
@click.option("--vm", help="Record only the VM with this id.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def record(
    output: str | None, name: str, vm: str | None, command: tuple[str, ...], socket: str, recordings: str | None
) -> None:
    """Record what all VMs of this host do, while COMMAND runs or until ^C.

    Through the collector of a running exitscope if there is one, else through one of its own, which needs root. The
    exit status is COMMAND's.
    """
    from .recordings.shelf import new_id

    recording_id = new_id()
    with _file(output, recordings, recording_id) as file, _collector(socket) as (path, own):
        status = asyncio.run(_record(path, own, file, recording_id, output is not None, name, vm, command))
    sys.exit(status)


@contextmanager
def _collector(path: str) -> Iterator[tuple[str, subprocess.Popen[bytes] | None]]:
    """(socket, the collector's process if it is ours)."""
    if listens(path):
        yield path, None
        return
    if os.geteuid() != 0:
        raise UserError(f"no collector on {path}, and not root to start one: run `sudo exitscope record`")
    from exitscope_probes.libc import die_with_parent

    with tempfile.TemporaryDirectory(prefix="exitscope-record-") as directory:
        own_path = str(Path(directory) / "collector.sock")
        process = subprocess.Popen(
            python("exitscope_probes", "collect", "--socket", own_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # ^C is for us: the last totals come after it
            preexec_fn=die_with_parent,  # noqa: PLW1509 (this process has one thread)
        )
        try:
            _await(process, own_path)
            yield own_path, process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()


def _await(process: subprocess.Popen[bytes], path: str) -> None:
    deadline = time.monotonic() + _START_S
    while not listens(path):
        if process.poll() is not None:
            said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
            raise UserError(
                said.splitlines()[-1].removeprefix("exitscope: ") if said else "the collector did not start"
            )
        if time.monotonic() > deadline:
            raise UserError(f"the collector did not start within {_START_S:g} s: `exitscope doctor` may say why")
        time.sleep(0.05)


def _last_words(process: subprocess.Popen[bytes]) -> str:
    """The last line that our collector said before it ended."""
    said = process.stderr.read().decode(errors="replace").strip() if process.stderr else ""
    return said.splitlines()[-1].removeprefix("exitscope: ") if said else "the collector did not start"


async def _record(
    path: str,
    own: subprocess.Popen[bytes] | None,
    file: Path,
    recording_id: str,
    given: bool,
    name: str,
    vm: str | None,
    command: tuple[str, ...],
) -> int:
    """Returns the exit status. given: the file's name was; else it lies among the recordings of a server."""
    from .recordings.recorder import Recorder, head
    from .recordings.spool import SpoolWriter

    spool_path = Path(f"{file}.spool") if given else file.with_suffix(".spool")
    try:
        spool = SpoolWriter(spool_path, head(recording_id, name, vm))
    except FileExistsError:
        raise UserError(
            f"{spool_path} is there already, from a recording that runs or was killed: any command that opens {file} "
            "recovers it; or choose another -o"
        ) from None
    except OSError as error:
        raise UserError(f"cannot write {spool_path}: {error.strerror or error}") from None
    recorder = Recorder(spool, path, vm)
    interrupted = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, interrupted.set)
    task = asyncio.create_task(recorder.run())
    status = 0
    waits = [recorder.begun.wait(), interrupted.wait()]
    await _first(*waits, *([_watch(own, recorder)] if own else []), timeout_s=_START_S)
    if not recorder.begun.is_set():
        recorder.stop()
        await task
        spool_path.unlink(missing_ok=True)
        if interrupted.is_set():
            return 128 + signal.SIGINT
        if own and own.poll() is not None:
            raise UserError(_last_words(own))
        raise UserError(f"the collector on {path} says nothing: is it starting? Try again")
    if vm is not None and vm not in recorder.listed:
        recorder.stop()
        await task
        spool_path.unlink(missing_ok=True)
        raise UserError(f"no VM {vm}: the collector sees {', '.join(recorder.listed) or 'none'}")
    watching = asyncio.create_task(_watch(own, recorder)) if own else None
    try:
        if command:
            status = await _run(command)
        else:
            click.echo("exitscope: recording; ^C ends it", err=True)
            await _first(interrupted.wait(), recorder.over.wait())
    except UserError:
        spool_path.unlink(missing_ok=True)
        raise
    finally:
        recorder.stop()
        await task
        if watching:
            watching.cancel()
    _finish(spool_path, file, shared=not given)
    return status


@contextmanager
def _file(output: str | None, recordings: str | None, recording_id: str) -> Iterator[Path]:
    """The file to make. What cannot be replaced by a file, such as a FIFO, gets its bytes at the end."""
    if output is None:
        yield _shelved(recordings, recording_id)
        return
    place = place_of(output)
    if not place.special:
        yield place.path
        return
    with tempfile.TemporaryDirectory(prefix="exitscope-record-") as directory:
        file = Path(directory) / f"{recording_id}.parquet"
        yield file
        try:
            with writing(output) as target, file.open("rb") as made:
                shutil.copyfileobj(made, target)
        except OutputError as error:
            kept = Path(tempfile.mkdtemp(prefix="exitscope-kept-")) / file.name
            file.replace(kept)
            raise UserError(f"{error}; what was recorded is in {kept}") from None


def _shelved(recordings: str | None, recording_id: str) -> Path:
    from .recordings.shelf import Shelf

    shelf = Shelf(recordings or default_recordings())
    make_directory(shelf.directory)
    return shelf.path(recording_id, "parquet")


async def _watch(collector: subprocess.Popen[bytes], recorder: Any) -> None:
    """End the recording when our own collector ends."""
    while collector.poll() is None:
        await asyncio.sleep(0.1)
    recorder.stop(f"the collector ended with status {collector.returncode} before the recording")


async def _run(command: tuple[str, ...]) -> int:
    """Run the command; ^C is its, not ours. A recording that fails does not end it."""
    loop = asyncio.get_running_loop()
    try:
        process = await asyncio.create_subprocess_exec(*command)
    except OSError as error:
        raise UserError(f"cannot run {command[0]}: {error.strerror or error}") from None
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, _send, process, number)
    status = await process.wait()
    return 128 - status if status < 0 else status


def _send(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(number)


async def _first(*waits: Coroutine[Any, Any, Any], timeout_s: float | None = None) -> None:
    """Until one of them ends, or the time is over."""
    tasks = [asyncio.create_task(wait) for wait in waits]
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _finish(spool: Path, file: Path, shared: bool) -> None:
    """Make the file, and say what was written. shared: it lies among a server's recordings."""
    from .recordings.finish import finish
    from .recordings.spool import SpoolError

    try:
        meta = finish(str(spool), str(file))
    except SpoolError as error:
        raise UserError(f"nothing was recorded: {error}; what there is stays in {spool}") from None
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror or error}; what was recorded is in {spool}") from None
    spool.unlink()
    if shared:
        hand_over(file)
    size = file.stat().st_size
    each = f", {size / meta.records:.1f} bytes each" if meta.records else ""
    names = ", ".join(vm.name or vm.id for vm in meta.vms[:5]) or "no VM"
    faults = f"{words.counted(meta.records, 'fault')} in {meta.duration_ns / 1e9:.1f} s"
    click.echo(cleaned(f"exitscope: wrote {file}: {faults} of {names}{each}"), err=True)
    if meta.note:
        click.echo(cleaned(f"exitscope: {meta.note}"), err=True)
    if meta.state == "failed":
        raise UserError(f"the recording is not whole: {meta.note}")
