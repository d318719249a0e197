"""Runs the server: binds, gives up root, serves until SIGTERM or SIGINT."""

import asyncio
import importlib
import ipaddress
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import uvicorn
from fastapi import FastAPI

from exitscope_probes.plainlog import log_to_stderr

from .alarms.finding import Limits as AlarmLimits
from .api import MAX_MESSAGE_BYTES
from .app import create_app
from .connections import connections_of
from .descriptors import BACKLOG, connections_allowed, raise_limit
from .errors import UserError
from .mallocs import give_back_early
from .metrics import Detail
from .privileges import drop_to, own_directory
from .quietlog import Seldom
from .recordings.library import Library, Limits
from .recordings.player import Player
from .recordings.shelf import find
from .replay import ReplayError, ReplaySource
from .settings import SHARED_USER, default_recordings, default_user, nanoseconds
from .source import SocketSource, Source, Status

CHILD_VARIABLE: Final = "EXITSCOPE_CHILD"
"""Set in the environment of processes that `exitscope run` starts: they end with it."""

_SWITCH_S: Final = 0.0005
"""After so long a thread that computes lets others go on: the one that records must not be late."""

_GZIP: Final = b"\x1f\x8b"


def server_config(app: FastAPI) -> uvicorn.Config:
    """How the app is served: one process, small messages from clients, nothing said about ourselves."""
    return uvicorn.Config(
        app,
        http=connections_of(connections_allowed()),
        backlog=BACKLOG,
        log_config=None,
        ws="websockets-sansio",  # waits for slow clients, as `websockets` does, and is not deprecated
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=4,
        ws_per_message_deflate=False,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
    )


class Server(uvicorn.Server):
    """Says when and where it is up, and ends in order."""

    def __init__(self, config: uvicorn.Config, url: str) -> None:
        super().__init__(config)
        self._url = url

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End in order on SIGTERM and SIGINT, with exit status 0; at once on a second SIGINT."""
        interrupts = 0

        def stop(number: int) -> None:
            nonlocal interrupts
            interrupts += number == signal.SIGINT
            self.should_exit, self.force_exit = True, interrupts > 1

        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop, number)
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say where."""
        await super().startup(sockets)
        if not self.should_exit:
            print(f"exitscope: open {self._url}", flush=True)


def serve(
    host: str,
    port: int,
    allow_host: tuple[str, ...],
    user: str | None,
    socket_path: str,
    source: str | None,
    replay_reason: str | None,
    recordings: str | None = None,
    recordings_max_bytes: int = 0,
    recordings_max_age: str = "0",
    auto_record: bool = False,
    alarm_stall: str = "1s",
    alarm_fault: str = "5s",
    alarm_handler: str = "1s",
    alarm_vm_stall: int = 75,
    metrics_buckets: str = "few",
    metrics_per: str = "vcpu",
) -> None:
    """Serve until told to stop. Raises UserError for what the user can mend: port taken, no such file…"""
    give_back_early()
    raise_limit()
    sys.setswitchinterval(_SWITCH_S)
    log_to_stderr("exitscope server").addFilter(Seldom())
    feed: Source
    try:
        feed = source_of(source, replay_reason) if source else SocketSource(socket_path)
    except ReplayError as error:
        raise UserError(str(error)) from None
    listening = _bind(host, port)
    port = listening.getsockname()[1]
    limits = Limits(recordings_max_bytes, nanoseconds(recordings_max_age))
    library = Library(recordings or default_recordings(), limits, None if source else socket_path)
    alarm_limits = AlarmLimits(
        nanoseconds(alarm_stall), nanoseconds(alarm_fault), nanoseconds(alarm_handler), alarm_vm_stall
    )
    detail = Detail(buckets=metrics_buckets, per=metrics_per)
    app = create_app(feed, (*allow_host, host), library, alarm_limits, auto_record, detail)
    config = server_config(app)
    config.load()
    importlib.import_module(
        "anyio._backends._asyncio"
    )  # found by name at first use: too late without the right to read
    if os.geteuid() == 0:
        user = user or default_user()
        own_directory(library.shelf.directory, user)
        drop_to(user, None if source else socket_path, CHILD_VARIABLE in os.environ)
        if user == SHARED_USER:
            print(
                "exitscope: warning: the server runs as nobody, so others that run as nobody can read its recordings "
                "and the collector's socket: `useradd --system exitscope` gives it a user of its own",
                file=sys.stderr,
            )
        if isinstance(feed, Player) and not os.access(feed.file.path, os.R_OK):
            raise UserError(f"{user}, the user of the server, may not read {feed.file.path}: choose another --user")
        if os.geteuid() == 0:
            print("exitscope: warning: the server runs as root and needs not", file=sys.stderr)
    shown = f"[{host}]" if ":" in host else host
    if not _is_loopback(host):
        print(f"exitscope: warning: everybody who can reach {shown}:{port} can see the page", file=sys.stderr)
    shown = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(shown, shown)
    asyncio.run(Server(config, f"http://{shown}:{port}/").serve([listening]))


def source_of(path: str, reason: str | None) -> Source:
    """What plays this file for ever: a recording, also one whose recorder was killed, or a collector's frames.

    Raises UserError or ReplayError if it is neither.
    """
    try:
        with open(path, "rb") as file:
            magic = file.read(4)
    except OSError:
        magic = b""
    if magic[:2] == _GZIP or (magic and magic not in (b"PAR1", b"XSPL")):
        return ReplaySource(path, reason)
    return Player(find(path), Status("replay", reason or f"replay of the recording {path}"), again=True)


def _bind(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
        listening.setblocking(False)
    except OSError as error:
        taken = "is taken: choose another --port" if error.errno == 98 else f"cannot be used: {error.strerror or error}"
        raise UserError(f"{host} port {port} {taken}") from None
    return listening


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
