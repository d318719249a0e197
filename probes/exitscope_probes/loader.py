"""Loads and attaches the probes: plan, maps, compile, attach, each hook by the best way that the kernel accepts."""

import os
import resource
from contextlib import ExitStack, suppress

import numpy as np

from .btf import KernelBtf
from .compiler import LoadError, compile_probes, defines
from .errors import refused as refusal
from .hooks import Candidate, Strategy
from .loading import Loading
from .maps import Maps
from .only import ALL, Only
from .plan import Choice, HookStatus, choose, status_of, unseen
from .programs import load_unattached
from .settings import MAX_VCPUS, MAX_VMS
from .tracing import attach
from .upkeep import Probes, closer

__all__ = ["LoadError", "Probes", "load"]

_RUN_AGAIN = dict.fromkeys(("fexit_uffd_read", "fexit_uffd_read_iter"), "further_typed") | {"on_exit_read": "further"}
"""Programs that call themselves (bpf/notify.h): by way of which map."""

_CHECK_VM = "check_vm"  # bpf/vm_end.bpf.c


class _Attacher:
    """Attaches candidates; a program that several hooks share is attached once."""

    def __init__(self, loading: Loading, probes: Probes) -> None:
        self._loading, self._probes = loading, probes
        self._attached: set[str] = set()

    def attach(self, candidate: Candidate) -> str | None:
        """Attaches all of a candidate; the kernel's reason if it refuses, and then nothing of it stays."""
        descriptors: list[int] = []
        fresh: set[str] = set()
        for attachment in candidate.attachments:
            if attachment.program in self._attached:
                continue
            try:
                descriptors.append(self._loading.loaded(attachment))
                if again := _RUN_AGAIN.get(attachment.program):
                    further = self._probes.maps[again]
                    further.put(further.index(0), np.array(descriptors[-1], further.value))
                descriptors.append(attach(attachment, descriptors[-1]))
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
    with ExitStack() as undo:
        undo.callback(maps.close)
        wanted = {made.program for choice in choices for one in choice.possible for made in one.attachments}
        code = compile_probes(defines(btf) | maps.defines(), wanted | {_CHECK_VM})
        code = {name: maps.relocate(instructions) for name, instructions in code.items()}
        with Loading(btf, code, (choice.possible[0] for choice in choices if choice.possible)) as loading:
            probes = Probes(maps, only)  # meanwhile; the slots are there before the first program runs
            undo.callback(probes.close)
            attacher = _Attacher(loading, probes)
            probes.hooks = tuple(attacher.settle(choice) for choice in choices)
        if reason := unseen(probes.hooks):
            hint = "leave out --strategy" if strategy else "`exitscope doctor` says more"
            raise LoadError(reason, hint)
        with suppress(OSError):  # without it, a VM's end shows by its process and its descriptors
            probes.check_vms_with(load_unattached(_CHECK_VM, code[_CHECK_VM]))
        undo.pop_all()
    return probes
