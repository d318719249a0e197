"""A VM in software emulation, with nested KVM, that runs one command on the host's own root file system."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.vm import initrd
from tests.vm.kernels import Kernel

CHECKOUT: Final = Path(__file__).parents[2]
# No VM may outlive whoever started it.
DIES_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL")
_MEMORY: Final = "2G"
_CONSOLE_LINES = 40
# What the kernel says when something is wrong with it; a plain WARNING is no failure.
_TROUBLE = re.compile(r"^.*(?:Oops|BUG: |general protection fault|Kernel panic|unable to handle).*$", re.MULTILINE)


class MachineError(Exception):
    """The VM did not do its work; the message ends with what its console showed last."""


class Machine:
    """One boot of a kernel `version`.

    In `out`, which is /out inside, are afterwards `output` and `status` of the command, and `dmesg`.
    """

    def __init__(self, process: subprocess.Popen[bytes], out: Path, version: str) -> None:
        self.out, self.version = out, version
        self._process = process

    def running(self) -> bool:
        """Whether the VM is still there."""
        return self._process.poll() is None

    def status(self) -> int | None:
        """The command's exit status, None until it has ended."""
        with suppress(FileNotFoundError, ValueError):
            return int((self.out / "status").read_text())
        return None

    def check(self) -> None:
        """Raises MachineError if the kernel fell over, or the VM ended before its command."""
        ended = not self.running() and self.status() is None  # asked first: its last words come before its end
        for name in ("console", "dmesg"):
            with suppress(FileNotFoundError):
                if said := trouble_in((self.out / name).read_text(errors="replace")):
                    raise self.error(f"its kernel said {said!r}")
        if ended:
            raise self.error("ended before its command did")

    def wait(self, timeout_s: float) -> int:
        """The command's exit status, once the VM is off. Raises MachineError, also when it takes too long."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise self.error(f"not done after {timeout_s:.0f} s") from None
        self.check()
        status = self.status()
        assert status is not None
        return status

    def read_when_there(self, name: str, silence_s: float) -> str:
        """A line that the command writes to a file in /out, once it is there.

        Raises MachineError, also when nothing was written there for so long, by the host's clock.
        """
        written, deadline = -1, 0.0
        while True:
            if (now_written := self._written()) != written:
                written, deadline = now_written, time.monotonic() + silence_s
            ended = not self.running()  # asked first: it may write its last line and end
            with suppress(FileNotFoundError):
                if (text := (self.out / name).read_text()).endswith("\n"):
                    return text.strip()
            self.check()
            if ended or time.monotonic() > deadline:
                when = "when it ended" if ended else f"and nothing else for {silence_s:.0f} s"
                raise self.error(f"no {name} {when}")
            time.sleep(0.2)

    def _written(self) -> int:
        """Bytes in /out: what grows shows that the VM works."""
        size_bytes = 0
        for path in self.out.iterdir():
            with suppress(FileNotFoundError):  # renamed meanwhile
                size_bytes += path.stat().st_size
        return size_bytes

    def error(self, what: str) -> MachineError:
        """That it went wrong, with the end of the console's text."""
        texts = [(self.out / name) for name in ("qemu", "console", "dmesg")]
        lines = [line for text in texts if text.exists() for line in text.read_text(errors="replace").splitlines()]
        return MachineError("\n".join([f"the VM: {what}; its console's end:", *lines[-_CONSOLE_LINES:]]))


def trouble_in(text: str) -> str | None:
    """The first line of a kernel's messages that tells of a panic, an oops or a bug."""
    found = _TROUBLE.search(text)
    return found[0] if found else None


@contextmanager
def boot(kernel: Kernel, out: Path, command: str, *, npt: bool = True) -> Iterator[Machine]:
    """A machine that runs a bash script in the checkout, as root; killed at the end if it is still on.

    out: an empty directory. npt: KVM's nested paging (else shadow paging) until the command loads kvm_amd anew.
    """
    (out / "command").write_text(command)
    initrd.build(kernel, out / "initrd")
    append = [
        # Addresses that stay the same from boot to boot let the compiled probes be found in their cache.
        *("console=ttyS0", "quiet", "panic=-1", "oops=panic", "nokaslr", "mitigations=off", "tsc=reliable"),
        *("nosoftlockup", "no_timer_check"),  # a busy host is no bug
        *(f"npt={npt:d}", f"checkout={CHECKOUT}"),
    ]
    arguments = [
        # More than one emulated CPU panics 6.12 now and then.
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", _MEMORY),
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
        *("-kernel", str(kernel.image), "-initrd", str(out / "initrd"), "-append", " ".join(append)),
        *("-serial", f"file:{out / 'console'}"),
        *_share("host", Path("/"), "readonly=on,multidevs=remap"),
        *_share("out", out),
        *_share("probes", kernel.probe_cache),
    ]
    with (out / "qemu").open("wb") as log:
        starter = (*DIES_WITH_US, "qemu-system-x86_64")
        process = subprocess.Popen([*starter, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Machine(process, out, kernel.version)
    finally:
        process.kill()
        process.wait()
        (out / "initrd").unlink()


def _share(tag: str, path: Path, more: str = "multidevs=remap") -> list[str]:
    """Options for a directory of the host's under a 9p tag."""
    file_system = f"local,id={tag},path={path},security_model=none,{more}"
    return ["-fsdev", file_system, "-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}"]


def follow(machine: Machine, path: Path, timeout_s: float) -> Iterator[str]:
    """Text that the VM adds to a file, as it comes, until the VM is off. Raises MachineError after the time."""
    deadline = time.monotonic() + timeout_s
    offset = 0
    running = True
    while running:
        running = machine.running()
        if path.exists():
            with path.open("rb") as text:
                os.lseek(text.fileno(), offset, os.SEEK_SET)
                new = text.read()
            offset += len(new)
            if new:
                yield new.decode(errors="replace")
        if time.monotonic() > deadline:
            raise machine.error(f"not done after {timeout_s:.0f} s")
        time.sleep(0.1)
