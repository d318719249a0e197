"""What the running kernel's BTF says: struct offsets and the arguments of raw tracepoints.

Every offset that the probes use comes from here, so one source fits every kernel. libbpf does the parsing (it is
there wherever bcc is); of its structures only `struct btf_type` and what follows it are read directly, and those
are kernel ABI (include/uapi/linux/btf.h).
"""

import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .errors import ProbeError
from .libbpf import libbpf

_BTF_DIR = Path("/sys/kernel/btf")
_MODULES = ("kvm",)  # modules whose structs and tracepoints the probes need, where not built in

# BTF kinds, include/uapi/linux/btf.h
_PTR, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST, _RESTRICT = 2, 4, 5, 6, 7, 8, 9, 10, 11
_FUNC, _FUNC_PROTO, _TYPE_TAG = 12, 13, 18
_ALIASES = (_TYPEDEF, _VOLATILE, _CONST, _RESTRICT, _TYPE_TAG)


class BtfError(ProbeError):
    """No BTF, or libbpf cannot read it."""


class _Type(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("info", ctypes.c_uint32), ("size", ctypes.c_uint32))

    @property
    def kind(self) -> int:
        return (int(self.info) >> 24) & 0x1F

    @property
    def vlen(self) -> int:
        return int(self.info) & 0xFFFF

    @property
    def bitfields(self) -> bool:
        return bool(int(self.info) >> 31)


class _Member(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32), ("offset", ctypes.c_uint32))


class _Param(ctypes.Structure):
    _fields_ = (("name_off", ctypes.c_uint32), ("type", ctypes.c_uint32))


@dataclass(frozen=True, slots=True)
class _Field:
    type_id: int
    bit_offset: int


class Btf:
    """One BTF object: vmlinux's, or a module's on top of it."""

    def __init__(self, lib: ctypes.CDLL, handle: int, name: str) -> None:
        self._lib, self._handle, self.name = lib, handle, name

    def _type(self, type_id: int) -> _Type:
        pointer = self._lib.btf__type_by_id(self._handle, type_id)
        if not pointer:
            raise BtfError(f"BTF of {self.name} has no type {type_id}", "the kernel's BTF is damaged")
        return _Type.from_address(pointer)

    def _name(self, offset: int) -> str:
        text = self._lib.btf__name_by_offset(self._handle, offset)
        return text.decode() if text else ""

    def _find(self, name: str, kind: int) -> int | None:
        found = self._lib.btf__find_by_name_kind(self._handle, name.encode(), kind)
        return found if found > 0 else None

    def _strip(self, type_id: int) -> int:
        while (entry := self._type(type_id)).kind in _ALIASES:
            type_id = entry.size
        return type_id

    def _members(self, type_id: int) -> Iterator[tuple[str, _Field]]:
        """Members by name with their bit offset; those of anonymous structs and unions as if they were its own."""
        entry = self._type(type_id)
        first = ctypes.addressof(entry) + ctypes.sizeof(_Type)
        for i in range(entry.vlen):
            member = _Member.from_address(first + i * ctypes.sizeof(_Member))
            bits = member.offset & 0xFFFFFF if entry.bitfields else member.offset
            name = self._name(member.name_off)
            if name:
                yield name, _Field(member.type, bits)
            elif self._type(self._strip(member.type)).kind in (_STRUCT, _UNION):
                for inner, field in self._members(self._strip(member.type)):
                    yield inner, _Field(field.type_id, bits + field.bit_offset)

    def offset(self, path: str) -> int | None:
        """Byte offset of `struct.member[.member…]`; None where this kernel has no such member."""
        struct, *members = path.split(".")
        type_id = self._find(struct, _STRUCT)
        total = 0
        for wanted in members:
            if type_id is None:
                return None
            type_id = self._strip(type_id)
            if self._type(type_id).kind not in (_STRUCT, _UNION):
                return None
            field = next((field for name, field in self._members(type_id) if name == wanted), None)
            if field is None or field.bit_offset % 8:
                return None
            total += field.bit_offset // 8
            type_id = field.type_id
        return total if type_id is not None else None

    def tracepoint(self, name: str) -> int | None:
        """Type id of `btf_trace_<name>`, which the kernel keeps for every tracepoint (include/trace/bpf_probe.h)."""
        return self._find(f"btf_trace_{name}", _TYPEDEF)

    def function(self, name: str) -> int | None:
        """Type id of a function, None where BTF has none of that name."""
        return self._find(name, _FUNC)

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        """Argument types of a function, e.g. ("vm_fault*", "unsigned long"); None where there is none of that name."""
        type_id = self.function(name)
        return None if type_id is None else self._arguments(self._type(type_id).size)

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        """Names of a function's parameters, e.g. ("vmf", "reason"); None where there is none of that name."""
        type_id = self.function(name)
        if type_id is None:
            return None
        proto = self._type(self._type(type_id).size)
        first = ctypes.addressof(proto) + ctypes.sizeof(_Type)
        step = ctypes.sizeof(_Param)
        return tuple(self._name(_Param.from_address(first + i * step).name_off) for i in range(proto.vlen))

    def raw_arguments(self, tracepoint: str) -> tuple[str, ...] | None:
        """Argument types of a raw tracepoint, e.g. ("kvm_page_fault*",); None where there is none of that name."""
        type_id = self.tracepoint(tracepoint)
        if type_id is None:
            return None
        arguments = self._arguments(self._type(self._strip(type_id)).size)
        return None if arguments is None else arguments[1:]  # the first is the tracepoint's own

    def _arguments(self, type_id: int) -> tuple[str, ...] | None:
        proto = self._type(type_id)
        if proto.kind != _FUNC_PROTO:
            return None
        first = ctypes.addressof(proto) + ctypes.sizeof(_Type)
        step = ctypes.sizeof(_Param)
        return tuple(self._spell(_Param.from_address(first + i * step).type) for i in range(proto.vlen))

    def _spell(self, type_id: int) -> str:
        if type_id == 0:
            return "void"
        entry = self._type(type_id)
        if entry.kind == _PTR:
            return self._spell(entry.size) + "*"
        if entry.kind in (_VOLATILE, _CONST, _RESTRICT, _TYPE_TAG):
            return self._spell(entry.size)
        return self._name(entry.name_off)


class KernelBtf:
    """BTF of vmlinux and of the modules that matter, asked as one.

    Raises BtfError when the kernel has no BTF or libbpf is missing.
    """

    def __init__(self) -> None:
        self._lib = libbpf()

    @cached_property
    def _objects(self) -> tuple[Btf, ...]:
        vmlinux = self._lib.btf__parse(os.fsencode(_BTF_DIR / "vmlinux"), None)
        if not vmlinux:
            raise BtfError(
                "this kernel has no readable BTF (/sys/kernel/btf/vmlinux)",
                "use a kernel with CONFIG_DEBUG_INFO_BTF=y; distribution kernels since 2021 have it",
            )
        objects = [Btf(self._lib, vmlinux, "vmlinux")]
        for module in _MODULES:
            path = _BTF_DIR / module
            if path.exists() and (handle := self._lib.btf__parse_split(os.fsencode(path), vmlinux)):
                objects.append(Btf(self._lib, handle, module))
        return tuple(objects)

    def offset(self, path: str) -> int | None:
        """Byte offset of `struct.member[.member…]` in vmlinux or a module; None where there is none."""
        found = (btf.offset(path) for btf in self._objects)
        return next((offset for offset in found if offset is not None), None)

    def tracepoint(self, name: str) -> tuple[str, int] | None:
        """Where a raw tracepoint is described: (BTF object, type id); None where there is none of that name."""
        found = ((btf.name, btf.tracepoint(name)) for btf in self._objects)
        return next(((where, type_id) for where, type_id in found if type_id is not None), None)

    def function(self, name: str) -> tuple[str, int] | None:
        """Where a function is described: (BTF object, type id); None where there is none of that name."""
        found = ((btf.name, btf.function(name)) for btf in self._objects)
        return next(((where, type_id) for where, type_id in found if type_id is not None), None)

    def function_arguments(self, name: str) -> tuple[str, ...] | None:
        """Argument types of a function; None where BTF has none of that name."""
        found = (btf.function_arguments(name) for btf in self._objects)
        return next((arguments for arguments in found if arguments is not None), None)

    def function_parameters(self, name: str) -> tuple[str, ...] | None:
        """Names of a function's parameters; None where BTF has none of that name."""
        found = (btf.function_parameters(name) for btf in self._objects)
        return next((names for names in found if names is not None), None)

    def raw_arguments(self, tracepoint: str) -> tuple[str, ...] | None:
        """Argument types of a raw tracepoint; None where this kernel has none of that name."""
        found = (btf.raw_arguments(tracepoint) for btf in self._objects)
        return next((arguments for arguments in found if arguments is not None), None)
