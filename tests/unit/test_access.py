"""Access types out of error codes: bpf/access.h, compiled for this host, against its mirror and the manuals."""

import subprocess
from pathlib import Path

import pytest

import exitscope_probes
from exitscope_probes.access import access_of, page_fault_is_vmx
from exitscope_probes.records import ACCESS_EXEC, ACCESS_READ, ACCESS_WRITE

HEADER = Path(exitscope_probes.__file__).parent / "bpf/access.h"


@pytest.mark.parametrize(
    ("code", "is_vmx", "access"),
    [
        (0x181, True, ACCESS_READ),  # a data read of a page that is not present
        (0x182, True, ACCESS_WRITE),
        (0x184, True, ACCESS_EXEC),
        (0x1BA, True, ACCESS_WRITE),  # a write to what may be read and executed (bits 3 and 5)
        (0x183, True, ACCESS_READ | ACCESS_WRITE),  # the walk of a guest's page table with access and dirty flags
        (0x180, True, 0),
        (0x1_0000_0004, False, ACCESS_READ),  # NPF, final translation, user
        (0x1_0000_0006, False, ACCESS_WRITE),
        (0x1_0000_0007, False, ACCESS_WRITE),  # present: write-protected
        (0x1_0000_0014, False, ACCESS_EXEC),
        (0x2_0000_0006, False, ACCESS_WRITE),  # the walk of a guest's page table counts as a write
        (0, False, ACCESS_READ),
    ],
)
def test_what_the_guest_wanted(code: int, is_vmx: bool, access: int) -> None:
    assert access_of(code, is_vmx) == access


def test_the_header_says_the_same(tmp_path: Path) -> None:
    codes = [*range(64), *(high << 32 | low for high in (1, 2) for low in range(32))]
    program = tmp_path / "access"
    (tmp_path / "access.c").write_text(
        "#include <stdio.h>\n#include <linux/types.h>\n"
        f'#include "{HEADER.with_name("events.h")}"\n#include "{HEADER}"\n'
        'int main(void) { unsigned long long code; while (scanf("%llu", &code) == 1) printf("%d %d %d\\n",'
        " access_of(code, 0), access_of(code, 1), access_of_syndrome(code)); }\n"
    )
    subprocess.run(["cc", "-Wall", "-Werror", "-o", program, tmp_path / "access.c"], check=True)
    syndromes = {0x20 << 26: ACCESS_EXEC, 0x24 << 26: ACCESS_READ, 0x24 << 26 | 0x40: ACCESS_WRITE,
                 0x24 << 26 | 0xC0: ACCESS_READ}  # fmt: skip
    lines = "\n".join(map(str, [*codes, *syndromes]))
    output = subprocess.run([program], input=lines, check=True, capture_output=True, text=True).stdout
    rows = [tuple(map(int, line.split())) for line in output.splitlines()]
    assert [row[:2] for row in rows[: len(codes)]] == [(access_of(c, False), access_of(c, True)) for c in codes]
    assert [row[2] for row in rows[len(codes) :]] == list(syndromes.values())


@pytest.mark.parametrize(("ept", "is_vmx"), [("Y\n", True), ("1\n", True), ("N\n", False), (None, False)])
def test_only_kvm_intel_with_ept_passes_exit_qualifications(tmp_path: Path, ept: str | None, is_vmx: bool) -> None:
    if ept is not None:
        parameters = tmp_path / "kvm_intel/parameters"
        parameters.mkdir(parents=True)
        (parameters / "ept").write_text(ept)
    assert page_fault_is_vmx(tmp_path) is is_vmx
