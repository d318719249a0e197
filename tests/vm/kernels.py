"""Stock Debian kernels, fetched with apt and unpacked into a cache of ours; nothing is installed."""

import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

# Release -> the package that depends on its newest build. The cloud flavours have no 9p.
METAPACKAGES: Final = {"6.1": "linux-image-amd64", "6.12": "linux-image-6.12-amd64"}
# What the VM needs beyond what is built in: its root file system, and KVM for what AMD's processors have.
WANTED: Final = ("virtio_pci", "9p", "9pnet_virtio", "overlay", "kvm_amd")
_IMAGE: Final = "linux-image-"


class KernelError(Exception):
    """A kernel cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel: `vmlinuz`, and `modules` with its modules (no compression) and their `order`."""

    version: str  # as `uname -r` says it
    path: Path

    @property
    def image(self) -> Path:
        """What QEMU boots."""
        return self.path / "vmlinuz"

    @property
    def modules(self) -> Path:
        """Directory of the modules that the VM needs; `order` there has their file names, each after what it needs."""
        return self.path / "modules"

    @property
    def probe_cache(self) -> Path:
        """Where the probes compiled for this kernel are kept from boot to boot."""
        return self.path / "probes"


def cache_directory() -> Path:
    """$XDG_CACHE_HOME/exitscope/vm, or the same under ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "exitscope/vm"


def image_package(depends: str) -> str | None:
    """The kernel image that a metapackage stands for, from what `apt-cache depends` says; None if it is unknown."""
    for line in depends.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith(_IMAGE):
            return name
    return None


def load_order(modules_dep: str, builtin: str, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules and all they need, each after what it needs.

    modules_dep, builtin: text of the files that depmod and the kernel's package give. Raises KernelError for a module
    that is in neither.
    """
    needs = {path: rest.split() for path, _, rest in (line.partition(":") for line in modules_dep.splitlines())}
    paths = {_name(path): path for path in needs}
    built_in = {_name(path) for path in builtin.splitlines()}
    order: dict[str, None] = {}
    for name in wanted:
        if name in paths:
            # modules.dep lists all that is needed, also indirectly, the deepest last.
            order |= dict.fromkeys([*reversed(needs[paths[name]]), paths[name]])
        elif name not in built_in:
            raise KernelError(f"this kernel has no module {name}")
    return list(order)


def fetch(release: str) -> Kernel:
    """The newest build of a release of METAPACKAGES that apt knows, downloaded if it is not in the cache.

    Raises KernelError.
    """
    kernel = _newest(release)
    if kernel is None or not kernel.path.exists():
        _run("apt-get", "-qq", "update")  # there are no lists yet, or they may name what the archive has replaced
        kernel = _newest(release)
    if kernel is None:
        raise KernelError(f"apt knows no {METAPACKAGES[release]}: this needs Debian 12's package sources")
    if not kernel.path.exists():
        cache_directory().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_directory(), prefix=".fetching-") as name:
            _unpack(kernel.version, Path(name))
            (Path(name) / "kernel").rename(kernel.path)
    kernel.probe_cache.mkdir(mode=0o700, exist_ok=True)
    return kernel


def _newest(release: str) -> Kernel | None:
    package = image_package(_run("apt-cache", "depends", METAPACKAGES[release], check=False))
    version = package.removeprefix(_IMAGE) if package else None
    return Kernel(version, cache_directory() / version) if version else None


def _unpack(version: str, scratch: Path) -> None:
    """Makes `kernel` in a scratch directory."""
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", _IMAGE + version, cwd=scratch)
    (archive,) = scratch.glob("*.deb")
    _run("dpkg-deb", "-x", str(archive), str(scratch / "root"))
    _run("depmod", "-b", str(scratch / "root"), version)
    library = scratch / "root/lib/modules" / version
    order = load_order((library / "modules.dep").read_text(), (library / "modules.builtin").read_text(), WANTED)
    modules = scratch / "kernel/modules"
    modules.mkdir(parents=True)
    for path in order:
        content = (library / path).read_bytes()
        (modules / f"{_name(path)}.ko").write_bytes(lzma.decompress(content) if path.endswith(".xz") else content)
    (modules / "order").write_text("".join(f"{_name(path)}.ko\n" for path in order))
    shutil.move(scratch / f"root/boot/vmlinuz-{version}", scratch / "kernel/vmlinuz")


def _name(path: str) -> str:
    """kernel/fs/9p/9p.ko.xz → 9p; the kernel takes - and _ for the same."""
    return Path(path).name.partition(".")[0].replace("-", "_")


def _run(*command: str, cwd: Path | None = None, check: bool = True) -> str:
    environment = os.environ | {"LC_ALL": "C", "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    try:
        done = subprocess.run(command, cwd=cwd, env=environment, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        raise KernelError(f"no {command[0]} here: this needs Debian's tools") from None
    if check and done.returncode:
        raise KernelError(f"{' '.join(command[:2])} failed: {done.stderr.strip()}")
    return done.stdout
