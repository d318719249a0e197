"""Loads and attaches the probes: plan, maps, compile, attach, each hook by the best way that the kernel accepts."""

import os
import resource
from contextlib import suppress

import numpy as np

from .btf import KernelBtf
from .compiler import LoadError, compile_probes, defines
from .errors import refused as refusal
from .hooks import Candidate, Strategy
from .maps import Maps
from .only import ALL, Only
from .plan import Choice, HookStatus, choose, status_of, unseen
from .settings import MAX_VCPUS, MAX_VMS
from .tracing import attach, load_unattached
from .upkeep import Probes, closer

__all__ = ["LoadError", "Probes", "load"]

_CHECK_VM = "check_vm"  # bpf/vm_end.bpf.c


class _Attacher:
    """Loads programs and attaches candidates; a program that several hooks share is attached once."""

    def __init__(self, btf: KernelBtf, code: dict[str, bytes], probes: Probes) -> None:
        self._btf, self._code, self._probes = btf, code, probes
        self._attached: set[str] = set()

    def attach(self, candidate: Candidate) -> str | None:
        """Attaches all of a candidate; the kernel's reason if it refuses, and then nothing of it stays."""
        descriptors: list[int] = []
        fresh: set[str] = set()
        for attachment in candidate.attachments:
            if attachment.program in self._attached:
                continue
            code = self._probes.maps.relocate(self._code[attachment.program])
            try:
                descriptors += attach(self._btf, attachment, code)
            except OSError as error:
                for descriptor in descriptors:
                    os.close(descriptor)
                return f"{attachment.program}: {error}"
            fresh.add(attachment.program)
        self._probes.on_close += map(closer, descriptors)
        self._attached |= fresh
        return None

    def settle(self, choice: Choice) -> HookStatus:
        """The best candidate that the kernel accepts."""
        refused: list[tuple[str, str]] = []
        for candidate in choice.possible:
            reason = self.attach(candidate)
            if reason is None:
                return status_of(choice, candidate, tuple(refused))
            refused.append((candidate.name, reason))
        return status_of(choice, None, tuple(refused))


def load(
    *,
    strategy: Strategy | None = None,
    ring_bytes: int = 16 << 20,
    max_vcpus: int = MAX_VCPUS,
    max_vms: int = MAX_VMS,
    only: Only = ALL,
) -> Probes:
    """Compiles and attaches the probes. ring_bytes: a power of two of pages; only: whose VMs are traced.

    Raises LoadError (maps, compile, permission) or BtfError. A hook that this kernel does not allow is no error, its
    status says so, unless what is counted would be wrong without it (hooks.Hook.essential).
    """
    with suppress(ValueError, OSError):  # kernels before 5.11 charge maps to RLIMIT_MEMLOCK
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    btf = KernelBtf()
    choices = choose(btf, strategy)
    try:
        maps = Maps(ring_bytes, max_vcpus, max_vms)
    except OSError as error:
        told = refusal(error)
        raise LoadError(f"the kernel refuses a BPF map: {told.message}", told.hint) from None
    maps["only"].put(maps["only"].index(0), np.array((only.tgid, only.cgroup), maps["only"].value))
    probes = Probes(maps, only)  # the slots are there before the first program runs
    try:
        wanted = {made.program for choice in choices for one in choice.possible for made in one.attachments}
        code = compile_probes(defines(btf) | maps.defines(), wanted | {_CHECK_VM})
        attacher = _Attacher(btf, code, probes)
        probes.hooks = tuple(attacher.settle(choice) for choice in choices)
        if reason := unseen(probes.hooks):
            hint = "leave out --strategy" if strategy else "`exitscope doctor` says more"
            raise LoadError(reason, hint)
        with suppress(OSError):  # without it, a VM's end shows by its process and its descriptors
            probes.check_vms_with(load_unattached(_CHECK_VM, maps.relocate(code[_CHECK_VM])))
    except BaseException:
        probes.close()
        raise
    return probes
