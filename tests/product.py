"""The whole product as its user starts it, in a process of its own: `exitscope demo`, `exitscope run`."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from exitscope_probes.isolated import python

TIMEOUT_S: Final = 60  # a loaded machine may take its time; how long it takes is the bench's business


class Product:
    """One run of `exitscope <command>`: its address, and its processes by what they do.

    wrapper: a command that executes what follows it; all_vms: those of the host, not only those of this test session.
    """

    def __init__(
        self, command: str, directory: Path, *options: str, wrapper: Sequence[str] = (), all_vms: bool = False
    ) -> None:
        self.socket = directory / "collector.sock"
        arguments = [*wrapper, *python("exitscope", command, "--port", "0", "--socket", str(self.socket))]
        arguments += ["--recordings", str(directory / "recordings"), *options]
        arguments += [] if all_vms else ["--only-pid-tree", str(os.getpid())]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.process.stdout
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"http://[^/\s]+/", line):  # what other processes print may follow at once
                self.url = found[0]
                break
        else:
            raise AssertionError(f"exitscope {command} ended without naming its address: {''.join(said)}")
        # What follows is not read by anybody: a full pipe must not stop the product.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def child(self, command: str) -> int | None:
        """Pid of the child that runs `exitscope <command>`, None while there is none."""
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with suppress(OSError):
                if command.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return int(pid)
        return None

    def get(self, path: str) -> Any:
        """A JSON answer of the API."""
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return json.load(answer)

    def until(self, path: str, condition: Callable[[Any], Any], what: str) -> Any:
        """The first answer that meets a condition."""
        deadline = time.monotonic() + TIMEOUT_S
        while not condition(answer := self.get(path)):
            assert time.monotonic() < deadline, f"never: {what}; the last answer: {answer}"
            time.sleep(0.05)
        return answer

    def wait_for_vm(self, pid: int) -> str:
        """Id of the VM of a process, once it is listed with its vCPUs."""

        def listed(answer: Any) -> list[str]:
            return [vm["id"] for vm in answer["vms"] if vm["pid"] == pid and vm["vcpus"]]

        return listed(self.until("api/v1/vms", listed, f"a VM of process {pid}"))[0]

    def stop(self) -> int:
        """SIGINT as a person would; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(20)


@contextmanager
def products() -> Iterator[Callable[..., Product]]:
    """Starts products, by command and options, each in a directory of its own; what still runs at the end is stopped.

    That is not pytest's: the server is another user and could not reach the socket there.
    """
    directory = Path(tempfile.mkdtemp(prefix="exitscope-test-"))
    directory.chmod(0o755)
    started: list[Product] = []

    def start(command: str, *options: str, **settings: Any) -> Product:
        own = Path(tempfile.mkdtemp(dir=directory))
        own.chmod(0o755)
        started.append(Product(command, own, *options, **settings))
        return started[-1]

    try:
        yield start
    finally:
        for product in started:
            if product.process.poll() is None:
                product.stop()
        shutil.rmtree(directory)
