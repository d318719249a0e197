"""Cells and names of hardware exits, against the tracepoint's own tables as recorded from real kernels."""

import re
from pathlib import Path

import pytest

from exitscope_probes.exit_reasons import (
    ARM_EXCEPTION_TRAP,
    BEYOND,
    HARDWARE_CELLS,
    ISA_ARM64,
    ISA_SVM,
    ISA_VMX,
    cell_of,
    name_of,
)

RECORDED = sorted((Path(__file__).parent / "formats").glob("kvm_exit.x86-*"))


def recorded(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Names by code that this kernel's kvm_exit prints: VMX, SVM."""
    vmx, svm = path.read_text().split("print fmt")[1].split(") : __print_symbolic")
    svm = svm.split("})")[0] + "}"
    return (
        {int(code): name for code, name in re.findall(r'\{ (\d+), "(\w+)" \}', vmx)},
        {
            sum(int(part, 0) for part in code.split("+")): name
            for code, name in re.findall(r'\{ ([-\w +]+), "([^"]+)" \}', svm)
        },
    )


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: path.name)
def test_names_are_the_kernels(path: Path) -> None:
    vmx, svm = recorded(path)
    assert len(vmx) > 50 and len(svm) > 90
    assert {code: name_of(ISA_VMX, cell_of(ISA_VMX, code)) for code in vmx} == vmx
    counted = {code: name for code, name in svm.items() if cell_of(ISA_SVM, code) != BEYOND}
    assert {code: name_of(ISA_SVM, cell_of(ISA_SVM, code)) for code in counted} == counted
    # Not of the processor, but of the GHCB protocol: kvm_exit shows vmgexit for each.
    assert all(code < 0 or code >> 31 for code in svm.keys() - counted.keys())


@pytest.mark.parametrize("isa", [ISA_VMX, ISA_SVM, ISA_ARM64])
def test_no_two_cells_have_the_same_name(isa: int) -> None:
    assert len({name_of(isa, cell) for cell in range(HARDWARE_CELLS)}) == HARDWARE_CELLS


@pytest.mark.parametrize(
    ("isa", "code", "exception_class", "name"),
    [
        (ISA_VMX, 48, 0, "EPT_VIOLATION"),
        (ISA_VMX, 0x8000_0021, 0, "INVALID_STATE"),  # the entry failed
        (ISA_VMX, 0x0400_0001, 0, "EXTERNAL_INTERRUPT"),  # with a bus lock detected
        (ISA_VMX, 0x1FF, 0, "other"),
        (ISA_VMX, 11, 0, "exit 0x00b"),
        (ISA_SVM, 0x400, 0, "npf"),
        (ISA_SVM, 0x40F, 0, "exit 0x40f"),
        (ISA_SVM, 0x410, 0, "other"),
        (ISA_SVM, 0x3FF, 0, "other"),
        (ISA_SVM, -1, 0, "other"),
        (ISA_SVM, 0xFFFF_FFFF, 0, "other"),
        (ISA_SVM, 0x4E, 0, "PF excp"),
        (ISA_ARM64, ARM_EXCEPTION_TRAP, 0x24, "DABT_LOW"),
        (ISA_ARM64, ARM_EXCEPTION_TRAP, 0x01, "WFx"),
        (ISA_ARM64, ARM_EXCEPTION_TRAP, 0x3C, "BRK64"),
        (ISA_ARM64, ARM_EXCEPTION_TRAP, 0x2E, "EC 0x2e"),
        (ISA_ARM64, 0, 0x24, "IRQ"),
        (ISA_ARM64, 1, 0, "EL1_SERROR"),
        (ISA_ARM64, 3, 0, "IL"),
        (ISA_ARM64, 0xBADCA11, 0, "other"),  # HYP_GONE
    ],
)
def test_codes_and_their_names(isa: int, code: int, exception_class: int, name: str) -> None:
    assert name_of(isa, cell_of(isa, code, exception_class)) == name
