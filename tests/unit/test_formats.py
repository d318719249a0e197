"""Format files of tracepoints, as recorded and as arm64's kernel describes its own."""

from pathlib import Path

import pytest

from exitscope_probes.formats import Field, fields, offset_of, parse

FORMATS = Path(__file__).parent / "formats"
COMMON = """\
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:unsigned char common_flags;\toffset:2;\tsize:1;\tsigned:0;
\tfield:unsigned char common_preempt_count;\toffset:3;\tsize:1;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

"""
# TRACE_EVENT(kvm_exit), arch/arm64/kvm/trace_arm.h
ARM64 = f"""name: kvm_exit
ID: 700
format:
{COMMON}\tfield:int ret;\toffset:8;\tsize:4;\tsigned:1;
\tfield:unsigned int esr_ec;\toffset:12;\tsize:4;\tsigned:0;
\tfield:unsigned long vcpu_pc;\toffset:16;\tsize:8;\tsigned:0;

print fmt: "%s: HSR_EC: 0x%04x (%s), PC: 0x%016lx", __print_symbolic(REC->ret, {{ 0, "IRQ" }})
"""


@pytest.mark.parametrize("path", sorted(FORMATS.glob("kvm_exit.x86-*")), ids=lambda path: path.name)
def test_a_recorded_format(path: Path) -> None:
    found = parse(path.read_text())
    assert found["exit_reason"] == Field(8, 4)
    assert found["isa"].size == 4 and found["isa"].offset > 8
    assert found["common_pid"] == Field(4, 4)


def test_arm64s_kvm_exit() -> None:
    found = parse(ARM64)
    assert (found["ret"], found["esr_ec"]) == (Field(8, 4), Field(12, 4))
    assert "isa" not in found and "print" not in found


def test_arrays_and_pointers() -> None:
    text = """\
\tfield:char comm[16];\toffset:8;\tsize:16;\tsigned:0;
\tfield:const char * name;\toffset:24;\tsize:8;\tsigned:0;
"""
    assert parse(text) == {"comm": Field(8, 16), "name": Field(24, 8)}


def test_what_is_not_there_has_no_offset(tmp_path: Path) -> None:
    directory = tmp_path / "kvm/kvm_exit"
    directory.mkdir(parents=True)
    (directory / "format").write_text(ARM64)
    assert offset_of("kvm:kvm_exit.esr_ec", tmp_path) == 12
    assert offset_of("kvm:kvm_exit.isa", tmp_path) is None
    assert offset_of("kvm:no_such.isa", tmp_path) is None
    assert fields("kvm:no_such", tmp_path) == {}
