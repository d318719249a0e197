"""Records what the BTF of an arm64 kernel's image shows of what the arm64 hook table asks for: kernel-<release>.json.

The images are of Debian's packages, fetched by apt with a state directory and an architecture of its own, so that the
host's apt is not touched; KVM is built in on arm64, and the image is not compressed: it contains the BTF as it is.

    mkdir -p A/state/lists/partial A/cache/archives/partial && touch A/state/status
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian-security \\
        bookworm-security main" > A/sources.list
    alias a="-o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State=A/state \\
        -o Dir::State::status=A/state/status -o Dir::Cache=A/cache -o Dir::Etc::sourcelist=A/sources.list \\
        -o Dir::Etc::sourceparts=-"                     # as options of apt-get, then:
    apt-get … update; apt-get … download linux-image-6.12.117+deb12-arm64; dpkg-deb -x linux-image-*.deb A/root
    python -m tests.unit.data.arm64.record A/root/boot/vmlinuz-6.12.117+deb12-arm64 6.12

A tracepoint's format file cannot be read off an image; `formats` holds the fields of its struct trace_event_raw_<name>,
which the kernel's own macro makes out of the same declaration (include/trace/stages/stage1_struct_define.h).
"""

import json
import os
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from exitscope_probes import compiler
from exitscope_probes.btf import _STRUCT, Btf
from exitscope_probes.hooks_arm64 import HOOKS
from exitscope_probes.libbpf import libbpf

_MAGIC: Final = struct.pack("<HBBI", 0xEB9F, 1, 0, 24)  # struct btf_header, include/uapi/linux/btf.h
_FORMATS: Final = {
    "kvm_exit": ("ret", "esr_ec", "vcpu_pc"),
    "kvm_guest_fault": ("vcpu_pc", "hsr", "hxfar", "ipa"),
    "kvm_entry": ("vcpu_pc",),
    "kvm_userspace_exit": ("reason", "errno"),
}
# All members of these, so that a hook can ask for another without the images being fetched again.
_STRUCTS: Final = (
    *("task_struct", "files_struct", "fdtable", "file", "file_operations", "kiocb", "vm_fault", "vm_area_struct"),
    *("userfaultfd_ctx", "kvm", "kvm_vcpu", "kvm_run", "kvm_memory_slot", "kvm_memslots", "kvm_vcpu_fault_info"),
    *("pt_regs", "user_pt_regs"),
)
_NESTED: Final = ("kvm_run.memory_fault.size", "kvm_run.memory_fault.len")


def btf_of_image(image: bytes) -> bytes:
    """The largest BTF blob in a kernel image. Raises ValueError where there is none."""
    found, at = b"", -1
    while (at := image.find(_MAGIC, at + 1)) >= 0:
        _, types, type_bytes, strings, string_bytes = struct.unpack_from("<5I", image, at + 4)
        size = 24 + max(types + type_bytes, strings + string_bytes)
        if at + size <= len(image) and size > len(found):
            found = image[at : at + size]
    if not found:
        raise ValueError("no BTF in this image: is it compressed?")
    return found


def _members(btf: Btf, name: str) -> list[str]:
    """Names of a struct's members, bit fields left out."""
    type_id = btf._find(name, _STRUCT)
    return [] if type_id is None else [member for member, _ in btf._members(type_id)]


def record(btf: Btf) -> dict[str, Any]:
    """What the tables ask for: None for what this kernel does not have."""
    candidates = [candidate for hook in HOOKS for candidate in hook.candidates]
    attachments = [attachment for candidate in candidates for attachment in candidate.attachments]
    paths = {path for candidate in candidates for path in candidate.offsets}.union(compiler._OFFSETS.values())
    functions = {made.target for made in attachments if made.via not in ("raw_tracepoint", "tracepoint")}
    functions |= {name for candidate in candidates for name in (*candidate.helpers, *candidate.symbols)}
    tracepoints = {made.target for made in attachments if made.via == "raw_tracepoint"} | set(_FORMATS)
    paths |= {f"{name}.{member}" for name in _STRUCTS for member in _members(btf, name)}
    return {
        "offsets": {path: btf.offset(path) for path in sorted(paths.union(_NESTED))},
        "functions": {name: btf.function_arguments(name) for name in sorted(functions)},
        "tracepoints": {name: btf.raw_arguments(name) for name in sorted(tracepoints)},
        "formats": {
            f"kvm:{name}": {field: btf.offset(f"trace_event_raw_{name}.{field}") for field in fields}
            for name, fields in _FORMATS.items()
        },
    }


def main() -> None:
    """`python -m tests.unit.data.arm64.record IMAGE RELEASE`."""
    image, release = Path(sys.argv[1]), sys.argv[2]
    with tempfile.NamedTemporaryFile() as file:
        file.write(btf_of_image(image.read_bytes()))
        file.flush()
        handle = libbpf().btf__parse(os.fsencode(file.name), None)
        found = {"image": image.name} | record(Btf(libbpf(), handle, image.name))
    target = Path(__file__).parent / f"kernel-{release}.json"
    target.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
