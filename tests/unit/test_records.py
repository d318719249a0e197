"""records.py and histogram.py against the C compiler's view of bpf/events.h."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exitscope_probes
from exitscope_probes import exit_reasons, histogram, records

HEADER = Path(exitscope_probes.__file__).parent / "bpf/events.h"
STRUCTS: dict[str, np.dtype[Any]] = {
    "fault_record": records.FAULT_DTYPE,
    "series_totals": records.SERIES_DTYPE,
    "vcpu_totals": records.VCPU_DTYPE,
    "vm_totals": records.VM_DTYPE,
    "hardware_exits": records.HARDWARE_ROW_DTYPE,
    "latency_histogram": np.dtype([("bucket", "<u4", (histogram.BUCKETS,))]),
}
# The header's array of stages has a field of its own for each here.
STAGES = ("raise", "notify", "serve", "fill", "finish")
IN_HEADER = {f"{name}_ns": f"stage_ns[STAGE_{name.upper()}]" for name in STAGES}
CONSTANTS: dict[str, int] = {
    **{f"STAGE_{name.upper()}": number for number, name in enumerate(STAGES)},
    "STAGES": len(STAGES),
    **{f"MODE_{name.upper()}": number for number, name in enumerate(records.MODES)},
    **{f"WAITER_{name.upper()}": number for number, name in enumerate(records.WAITERS)},
    **{f"RESOLVER_{name.upper()}": number for number, name in enumerate(records.RESOLVERS)},
    **{f"LOSS_{name.upper()}": number for number, name in enumerate(records.LOSSES)},
    **{
        f"SEEN_{name}": getattr(records, f"SEEN_{name}")
        for name in ("ACCESS", "SLEEP", "READ", "FILL", "HALT", "RANGE", "NAMED", "UNFILLED")
    },
    **{f"ACCESS_{name}": getattr(records, f"ACCESS_{name}") for name in ("READ", "WRITE", "EXEC")},
    **{f"PRESENCE_{name}": number for number, name in enumerate(("UNKNOWN", "MISSING", "MINOR", "WP", "MAPPED"))},
    "MODES": len(records.MODES),
    "FILLS": len(records.FILLS),
    **{f"FAILURE_{name.upper()}": number for number, name in enumerate(records.FAILURES)},
    "FAILURES": len(records.FAILURES),
    "VCPU_OTHER": records.VCPU_OTHER,
    "RECORD_FAULT": records.RECORD_FAULT,
    "SERIES": records.SERIES,
    "SERIES_STAGES_UFFD": len(records.MODES),
    "SERIES_STAGES_EXIT": len(records.MODES) + len(records.UFFD_STAGES),
    "SERIES_STAGES_ASYNC": len(records.MODES) + len(records.UFFD_STAGES) + len(records.EXIT_STAGES),
    "EXITS": records.EXIT_CELLS,
    "EXIT_REASON_BEYOND": records.EXIT_NAMES.index("KVM_EXIT_REASON_BEYOND_47"),
    "EXIT_EINTR": records.EXIT_NAMES.index("EINTR"),
    "EXIT_EFAULT": records.EXIT_NAMES.index("EFAULT"),
    "EXIT_MEMORY_FAULT_EFAULT": records.EXIT_NAMES.index("KVM_EXIT_MEMORY_FAULT/EFAULT"),
    "EXIT_MEMORY_FAULT_EHWPOISON": records.EXIT_NAMES.index("KVM_EXIT_MEMORY_FAULT/EHWPOISON"),
    "EXIT_EAGAIN": records.EXIT_NAMES.index("EAGAIN"),
    "EXIT_ERROR_OTHER": records.EXIT_NAMES.index("ERROR_OTHER"),
    "ISA_VMX": exit_reasons.ISA_VMX,
    "ISA_SVM": exit_reasons.ISA_SVM,
    "ISA_ARM64": exit_reasons.ISA_ARM64,
    "ARM_EXCEPTION_TRAP": exit_reasons.ARM_EXCEPTION_TRAP,
    "HARDWARE_ARM64_CODES": exit_reasons.ARM64_CODES,
    "HARDWARE_DIRECT": exit_reasons.DIRECT,
    "HARDWARE_FOLDED_FROM": exit_reasons.FOLDED_FROM,
    "HARDWARE_FOLDED": exit_reasons.FOLDED,
    "HARDWARE_BEYOND": exit_reasons.BEYOND,
    "HARDWARE_CELLS": exit_reasons.HARDWARE_CELLS,
    "BUCKETS": histogram.BUCKETS,
    "BUCKET_UNIT_SHIFT": histogram.UNIT_SHIFT,
    "BUCKET_SUB_BITS": histogram.SUB_BITS,
}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """{"sizes": {struct: bytes}, "fields": {struct.field: [offset, bytes]}, "constants": {name: value}}."""
    lines = ['printf("{\\"sizes\\":{");']
    lines += [f'printf("\\"{name}\\":%zu,", sizeof(struct {name}));' for name in STRUCTS]
    lines += ['printf("\\"\\":0},\\"fields\\":{");']
    for name, dtype in STRUCTS.items():
        for field in dtype.names or ():
            member = IN_HEADER.get(field, field)
            lines.append(
                f'printf("\\"{name}.{field}\\":[%zu,%zu],", offsetof(struct {name}, {member}),'
                f" sizeof(((struct {name} *)0)->{member}));"
            )
    lines += ['printf("\\"\\":0},\\"constants\\":{");']
    lines += [f'printf("\\"{name}\\":%llu,", (unsigned long long)({name}));' for name in CONSTANTS]
    lines += [
        'printf("\\"ADDRESS_UNKNOWN\\":%llu}}", ADDRESS_UNKNOWN);',
    ]
    directory = tmp_path_factory.mktemp("layout")
    source, program = directory / "layout.c", directory / "layout"
    source.write_text(
        "#include <stddef.h>\n#include <stdio.h>\n#include <linux/types.h>\n"
        f'#include "{HEADER}"\nint main(void) {{\n' + "\n".join(lines) + "\nreturn 0; }\n"
    )
    subprocess.run(["cc", "-Wall", "-Werror", "-o", program, source], check=True)
    result: dict[str, Any] = json.loads(subprocess.run([program], check=True, capture_output=True).stdout)
    return result


@pytest.mark.parametrize("name", STRUCTS)
def test_sizes_offsets_and_field_sizes(compiled: dict[str, Any], name: str) -> None:
    dtype = STRUCTS[name]
    assert dtype.itemsize == compiled["sizes"][name]
    assert dtype.fields is not None
    for field, (field_dtype, offset, *_) in dtype.fields.items():
        assert [offset, field_dtype.itemsize] == compiled["fields"][f"{name}.{field}"], field


@pytest.mark.parametrize("name", STRUCTS)
def test_no_field_of_the_header_is_missing_or_in_another_order(name: str) -> None:
    body = re.search(rf"struct {name} {{(.*?)\n}};", HEADER.read_text(), re.DOTALL)
    assert body
    code = re.sub(r"/\*.*?\*/", "", body[1], flags=re.DOTALL)
    fields = re.findall(r"(\w+)(?:\[\w+\])?;", code)
    names = [IN_HEADER.get(field, field).split("[")[0] for field in STRUCTS[name].names or ()]
    assert fields == list(dict.fromkeys(names))


def test_signedness_follows_the_header() -> None:
    signed = set(re.findall(r"__s\d+ (\w+);", HEADER.read_text()))
    dtype = records.FAULT_DTYPE
    assert {name for name in dtype.names or () if dtype[name].kind == "i"} == signed


def test_constants(compiled: dict[str, Any]) -> None:
    wrong = {
        name: (value, compiled["constants"][name])
        for name, value in CONSTANTS.items()
        if value != compiled["constants"][name]
    }
    assert not wrong
    assert compiled["constants"]["ADDRESS_UNKNOWN"] == records.ADDRESS_UNKNOWN


def test_no_constant_of_the_header_is_untested() -> None:
    defined = set(re.findall(r"^#define (\w+) ", HEADER.read_text(), re.MULTILINE))
    assert defined - CONSTANTS.keys() == {"ADDRESS_UNKNOWN", "MEMSLOT_UNKNOWN", "LOSSES"}


def test_the_losses_fit_into_the_kernels_array() -> None:
    size = re.search(r"#define LOSSES (\d+)", HEADER.read_text())
    assert size and len(records.LOSSES) <= int(size[1])


def test_there_is_one_name_for_every_exit_cell_and_series() -> None:
    assert len(records.EXIT_NAMES) == len(set(records.EXIT_NAMES)) == records.EXIT_CELLS
    assert len(records.STAGE_SERIES) + len(records.MODES) == records.SERIES
    # include/uapi/linux/kvm.h
    for number, name in {
        0: "UNKNOWN",
        5: "HLT",
        6: "MMIO",
        10: "INTR",
        39: "MEMORY_FAULT",
        40: "TDX",
    }.items():
        assert records.EXIT_NAMES[number] == f"KVM_EXIT_{name}"


def test_records_and_rows_are_whole_words_long() -> None:
    for dtype in (records.FAULT_DTYPE, records.VCPU_DTYPE, records.VM_DTYPE, records.HARDWARE_ROW_DTYPE):
        assert dtype.itemsize % 8 == 0
