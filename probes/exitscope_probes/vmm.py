"""Which VMM a process is, and what it calls its VM."""

import re
import uuid
from collections.abc import Sequence
from typing import Final

MAX_NAME: Final = 80

_LIBVIRT_FILE: Final = re.compile(r"/domain-\d+-([^/,]+)/")

# Executable name (its beginning) -> what people call it, and the options that name the VM.
_VMMS: Final[tuple[tuple[str, str, tuple[str, ...]], ...]] = (
    ("qemu", "QEMU", ("-name", "--name")),
    ("firecracker", "Firecracker", ("--id",)),
    ("cloud-hypervisor", "Cloud Hypervisor", ("--name",)),
    ("exitscope-guest", "exitscope guest", ("--name",)),
    ("crosvm", "crosvm", ("--name",)),
)


def identify(executable: str, arguments: Sequence[str], comm: str) -> tuple[str, str]:
    """(vmm, name) from the executable's name, the command line and the comm; name falls back to the comm."""
    for prefix, vmm, options in _VMMS:
        if executable.startswith(prefix):
            return vmm, _clean(_option(arguments, options, guest=vmm == "QEMU")) or _clean(comm) or vmm
    vmm = _clean(executable or comm) or "unknown"
    return vmm, _clean(comm) or vmm


def uuid_of(arguments: Sequence[str]) -> str | None:
    """The VM's UUID: QEMU's -uuid, which is libvirt's, or Cloud Hypervisor's --platform uuid=; None if not given."""
    text = _option(arguments, ("-uuid", "--uuid"), guest=False)
    if not text:
        parts = _option(arguments, ("--platform",), guest=False).split(",")
        text = next((part.removeprefix("uuid=") for part in parts if part.startswith("uuid=")), "")
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def libvirt_domain(arguments: Sequence[str]) -> str | None:
    """Name of the libvirt domain; None if libvirt has not started this QEMU.

    libvirt gives each domain a directory domain-ID-NAME, with NAME cut to 20 characters, and names files in it on the
    command line (src/conf/domain_conf.c, virDomainDefGetShortName); -name has the whole name.
    """
    for argument in arguments:
        if found := _LIBVIRT_FILE.search(argument):
            return _clean(_option(arguments, ("-name", "--name"), guest=True)) or _clean(found[1])
    return None


def _option(arguments: Sequence[str], options: Sequence[str], guest: bool) -> str:
    """Value of the first of these options; QEMU's is "NAME" or "guest=NAME,debug-threads=on"."""
    for i, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if option not in options:
            continue
        if not equals:
            value = arguments[i + 1] if i + 1 < len(arguments) else ""
        if not guest:
            return value
        parts = value.replace(",,", "\0").split(",")  # QEMU writes a comma inside a value twice
        named = [part.removeprefix("guest=") for part in parts if part.startswith("guest=")]
        plain = [part for part in parts if "=" not in part]
        return (named or plain or [""])[0].replace("\0", ",")
    return ""


def _clean(name: str) -> str:
    """Printable and short: a command line is somebody else's text."""
    return "".join(character if character.isprintable() else "\ufffd" for character in name.strip())[:MAX_NAME]
