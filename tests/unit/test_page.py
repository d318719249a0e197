"""What is shown of a fault's page: said by KVM and decoded by the kernel's profile, or inferred and marked so."""

from typing import Any

import pytest

from exitscope import frame
from exitscope.aggregate import Aggregate
from exitscope.page import access_names, flag_names, inferred, presence_name
from exitscope_probes import profiles
from exitscope_probes.records import (
    ACCESS_EXEC,
    ACCESS_READ,
    ACCESS_WRITE,
    MODE_EXIT,
    MODE_MEMORY_FAULT,
    MODE_UFFD,
    PRESENCES,
)
from tests.unit.frames import Feeder

MS = 1_000_000
BY_NAME = {profile.name: profiles.described(profile) for profile in profiles.PROFILES}
KNOWN: dict[str, Any] = {"gpa": 4096, "hva": 8192, "access": ACCESS_WRITE, "memslot": 1, "presence": 1}


def shown(profile: str, **fields: Any) -> dict[str, Any]:
    """The only slow fault of a frame, of a record with these fields, from a kernel of this profile."""
    feeder, aggregate = Feeder(), Aggregate()
    vm = feeder.add_vm(1, 1, "one")
    aggregate.handle(feeder.hello(capabilities={"hooks": [], "profile": BY_NAME.get(profile, {})}))
    aggregate.handle(feeder.vms_message())
    aggregate.handle(feeder.totals(0, snapshot=True))
    aggregate.handle(feeder.records(vm, [MS], **(KNOWN | fields)))
    aggregate.handle(feeder.totals(1_000_000_000))
    (fault,) = frame._shown(aggregate, frame.Selection("all", aggregate.vms.running()), 10_000_000_000)["slowest"]
    assert isinstance(fault, dict)
    return fault


def test_a_bare_efault_has_everything_inferred() -> None:
    fault = shown("bare-efault", mode=MODE_EXIT, exit_errno=-14)
    assert (fault["gpa"], fault["hva"], fault["access"]) == ("0x1000", "0x2000", "write")
    assert (fault["memslot"], fault["presence"]) == (1, "missing")
    assert fault["inferred"] == ["gpa", "hva", "access", "memslot", "presence"]
    assert (fault["error"], fault["exit_flags"], fault["exit_bytes"]) == ("EFAULT", [], None)


def test_what_is_not_known_is_not_inferred() -> None:
    fault = shown("bare-efault", mode=MODE_EXIT, exit_errno=-14, access=0, memslot=-1, presence=0)
    assert (fault["access"], fault["memslot"], fault["presence"]) == (None, None, None)
    assert fault["inferred"] == ["gpa", "hva"]


@pytest.mark.parametrize(("error", "name"), [(-14, "EFAULT"), (-133, "EHWPOISON")])
def test_a_memory_fault_says_its_page_itself(error: int, name: str) -> None:
    fault = shown(
        "memory-fault", mode=MODE_MEMORY_FAULT, exit_errno=error, exit_reason=39, exit_flags=8, exit_size=4096
    )
    assert (fault["error"], fault["exit_flags"], fault["exit_bytes"]) == (name, ["PRIVATE"], 4096)
    assert fault["inferred"] == ["hva", "access", "memslot", "presence"]


def test_a_series_that_says_the_access() -> None:
    fault = shown("exit-on-missing", mode=MODE_MEMORY_FAULT, exit_errno=-14, exit_reason=39, exit_flags=2)
    assert fault["exit_flags"] == ["WRITE"]
    assert fault["inferred"] == ["hva", "memslot", "presence"]


def test_a_uffd_fault_is_not_kvms_to_say() -> None:
    assert shown("memory-fault", mode=MODE_UFFD)["inferred"] == []


@pytest.mark.parametrize(
    ("profile", "flags", "names"),
    [
        ("memory-fault", 8, ["PRIVATE"]),
        ("userfault-v3", 8 | 16, ["PRIVATE", "USERFAULT"]),
        ("exit-on-missing", 1 | 4, ["READ", "EXEC"]),
        ("nowait-on-fault", 1 | 2, ["WRITE", "EXEC"]),
        ("absent-mapping-v2", 2, ["ABSENT_MAPPING"]),
        ("memory-fault", 16, ["1 << 4"]),
        ("unknown", 1 << 63, ["1 << 63"]),
    ],
)
def test_the_same_bit_means_something_else_in_another_profile(profile: str, flags: int, names: list[str]) -> None:
    assert flag_names(flags, BY_NAME.get(profile, {})) == names


def test_a_profile_that_makes_no_sense_names_nothing() -> None:
    assert flag_names(8, {"exit_flags": ["PRIVATE"]}) == ["1 << 3"]


def test_names() -> None:
    assert access_names(0) is None
    assert access_names(ACCESS_READ | ACCESS_EXEC) == "read+exec"
    assert [presence_name(code) for code in range(6)] == [None, *PRESENCES[1:], None]
    assert inferred("async", dict.fromkeys(KNOWN, 1), []) == []
