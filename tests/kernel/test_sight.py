"""A collector that could not see right refuses to start and says why; one that starts counts what the guest did."""

import json
import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from exitscope_probes.isolated import python
from exitscope_probes.records import MODE_KERNEL, MODE_UFFD
from exitscope_probes.rights import CAPABILITIES
from tests.kernel.client import collecting, command, welcomed
from tests.kernel.harness import answer, finish, go, guest
from tests.kernel.test_least_privilege import GRANTED, ROOT, as_nobody

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd")

PAGES: Final = 3000


def without(capability: str) -> list[str]:
    """Root as a container has it, less one capability."""
    return ["setpriv", f"--bounding-set=-{capability.removeprefix('CAP_').lower()}"]


def in_own_mounts(script: str) -> list[str]:
    """A shell's preparation in a mount namespace of its own, then the command."""
    return ["unshare", "-m", "sh", "-ec", f'{script}\nexec "$@"', "sh"]


# As kernel.kptr_restrict=2 shows them, without changing the machine's.
HIDDEN_ADDRESSES: Final = """
d=$(mktemp -d)
sed 's/^[0-9a-f]*/0000000000000000/' /proc/kallsyms >"$d/kallsyms"; echo 2 >"$d/kptr_restrict"
mount --bind "$d/kallsyms" /proc/kallsyms; mount --bind "$d/kptr_restrict" /proc/sys/kernel/kptr_restrict
rm -r "$d"
"""

BLIND: Final = {
    "no CAP_SYSLOG": (as_nobody(GRANTED - {"CAP_SYSLOG"}), "CAP_SYSLOG"),
    "kptr_restrict=2": (in_own_mounts(HIDDEN_ADDRESSES), "sysctl kernel.kptr_restrict=1"),
    "no CAP_SYS_PTRACE": (as_nobody(GRANTED - {"CAP_SYS_PTRACE"}), "CAP_SYS_PTRACE"),
    "root without CAP_SYS_PTRACE": (without("CAP_SYS_PTRACE"), "CAP_SYS_PTRACE"),
    "no CAP_DAC_READ_SEARCH": (as_nobody(GRANTED - {"CAP_DAC_READ_SEARCH"}), "CAP_DAC_READ_SEARCH"),
    "no CAP_PERFMON": (as_nobody(GRANTED - {"CAP_PERFMON"}), "CAP_PERFMON"),
    "no rights at all": (as_nobody(frozenset()), "run as root"),
    "PID namespace": (["unshare", "-pf", "--mount-proc"], "--pid=host"),
    "PID namespace, the host's /proc": (["unshare", "-pf"], "--pid=host"),
    "user namespace": (["unshare", "-r"], "user namespace"),
    "time namespace": (["unshare", "-T"], "time namespace"),
}


@pytest.mark.parametrize("blindness", BLIND)
def test_who_would_not_see_right_does_not_start(blindness: str, tmp_path: Path) -> None:
    wrapper, remedy = BLIND[blindness]
    done = subprocess.run(
        [*wrapper, *command(tmp_path / "s")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.splitlines()
    assert remedy in line
    doctor = subprocess.run(
        [*wrapper, *python("exitscope_probes", "doctor", "--json")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert doctor.returncode == 1, "doctor must not say that live tracing works here"
    assert remedy in json.loads(doctor.stdout)["reason"]


def test_without_a_hook_that_tells_the_modes_apart_it_does_not_start(tmp_path: Path) -> None:
    """Its function has another name here: uffd faults would have been counted as the kernel's."""
    renamed = """
d=$(mktemp -d); sed 's/ userfaultfd_ioctl$/ userfaultfd_renamed/' /proc/kallsyms >"$d/kallsyms"
mount --bind "$d/kallsyms" /proc/kallsyms; rm -r "$d"
"""
    done = subprocess.run(
        [*in_own_mounts(renamed), *command(tmp_path / "s")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "would be wrong without the hook uffd notify, resolve" in line
    assert "userfaultfd_ioctl" in line


def open_to_nobody(directory: Path) -> None:
    directory.chmod(0o777)
    for parent in directory.parents:
        if parent.owner() == "root" and parent.name.startswith("pytest"):
            parent.chmod(0o755)


def test_what_only_loads_a_modules_probes_is_given_up(tmp_path: Path) -> None:
    """Where KVM is a module the unit has CAP_SYS_ADMIN as well, for as long as the probes are loaded."""
    settings = (ROOT / "deploy/kvm-module.conf").read_text()
    added = {
        frozenset(names.split()) for names in re.findall(r"^(?:Ambient|.*Bounding).*=(.*)$", settings, re.MULTILINE)
    }
    assert added == {frozenset({"CAP_SYS_ADMIN"})}
    open_to_nobody(tmp_path)
    with collecting(tmp_path / "collector.sock", wrapper=as_nobody(GRANTED | {"CAP_SYS_ADMIN"})) as process:
        status = Path(f"/proc/{process.pid}/status").read_text()
    sets = {name: int(value, 16) for name, value in re.findall(r"^Cap(\w+):\s+(\w+)$", status, re.MULTILINE)}
    granted = sum(1 << CAPABILITIES[name] for name in GRANTED)
    assert {name: sets[name] for name in ("Inh", "Prm", "Eff", "Amb")} == dict.fromkeys(
        ("Inh", "Prm", "Eff", "Amb"), granted
    )


@pytest.mark.parametrize("hidepid", [0, 2, 4])
def test_with_just_its_capabilities_it_sees_other_users_vms_whole(hidepid: int, tmp_path: Path) -> None:
    """As `nobody` with what the unit grants, also where /proc hides other users' processes."""
    open_to_nobody(tmp_path)
    path = tmp_path / "collector.sock"
    hiding = in_own_mounts(f"mount -t proc -o hidepid={hidepid} proc /proc")
    with (
        collecting(path, wrapper=[*hiding, *as_nobody(GRANTED)]),
        guest("--vcpus", 2, "--pages", PAGES, "--mode", "uffd", "--wait-start") as running,
    ):
        client = welcomed(path)
        answer(running)
        go(running)
        report = finish(running)
        client.read_until(lambda: client.is_gone(report["pid"]), "the VM's end")
        assert client.faults(report["pid"], MODE_UFFD) == [vcpu["faults"] for vcpu in report["vcpus"]]
        assert sum(client.faults(report["pid"], MODE_UFFD)) == PAGES
        assert sum(client.faults(report["pid"], MODE_KERNEL)) < PAGES / 10
