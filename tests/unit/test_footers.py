"""Footers of hostile Parquet files: refused before a library makes objects of them, hundreds of times their size."""

import os
import struct
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from exitscope.errors import UserError
from exitscope.recordings.columns import FILE_SCHEMA
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.footer import check
from exitscope.recordings.parquet import MAX_ROW_GROUPS, opened, table_in

from .recordings import synthetic_records, write_recording

MB = 1 << 20
STRUCT, LIST, BINARY, I32, I64 = 12, 9, 8, 5, 6
_OPENED = """
import sys
from pathlib import Path
from exitscope.errors import UserError
from exitscope.recordings.file import RecordingFile
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
def ask(path):
    try:
        RecordingFile.open(path)
    except UserError as error:
        return str(error)
    return ""
ask(sys.argv[1])
before = peak()
said = ask(sys.argv[2])
print(peak() - before, said)
"""


def varint(number: int) -> bytes:
    found = b""
    while number > 127:
        found, number = found + bytes([number & 127 | 128]), number >> 7
    return found + bytes([number])


def field(delta: int, kind: int, value: bytes) -> bytes:
    return bytes([delta << 4 | kind]) + value


def many(kind: int, items: list[bytes]) -> bytes:
    return bytes([0xF0 | kind]) + varint(len(items)) + b"".join(items)


ZERO = b"\x00"
END = b"\x00"
ELEMENT = field(4, BINARY, b"\x01a") + END
CHUNK = field(2, I64, ZERO) + END


def group(chunks: list[bytes]) -> bytes:
    return field(1, LIST, many(STRUCT, chunks)) + field(1, I64, ZERO) + field(1, I64, ZERO) + END


def footer(schema: list[bytes], groups: list[bytes]) -> bytes:
    version = field(1, I32, b"\x02")
    listed = field(1, LIST, many(STRUCT, schema)) + field(1, I64, ZERO) + field(1, LIST, many(STRUCT, groups))
    return version + listed + END


def long_paths() -> bytes:
    path = field(1, LIST, many(BINARY, [ZERO] * 4000))
    encodings = field(1, LIST, many(I32, [ZERO]))
    sizes = field(1, I32, ZERO) + field(1, I64, ZERO) + field(1, I64, ZERO) + field(1, I64, ZERO)
    metadata = field(1, I32, ZERO) + encodings + path + sizes + field(2, I64, ZERO) + END
    return field(2, I64, ZERO) + field(1, STRUCT, metadata) + END


HOSTILE = {
    "columns of a row group": footer([ELEMENT] * 22, [group([CHUNK] * 4000)] * 300),
    "row groups": footer([ELEMENT] * 22, [group([CHUNK])] * 4000),
    "columns": footer([ELEMENT] * 4000, [group([CHUNK])]),
    "parts": footer([ELEMENT] * 22, [group([long_paths()] * len(FILE_SCHEMA))] * 100),
}


def parquet(data: bytes) -> bytes:
    return b"PAR1" + data + struct.pack("<I", len(data)) + b"PAR1"


@pytest.mark.parametrize("which", HOSTILE)
def test_a_footer_that_would_become_hundreds_of_megabytes_is_refused(tmp_path: Path, which: str) -> None:
    right, path = tmp_path / "right.parquet", tmp_path / "bad.parquet"
    write_recording(right, synthetic_records(100))
    path.write_bytes(parquet(HOSTILE[which]))
    command = [sys.executable, "-c", _OPENED, os.fspath(right), os.fspath(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    above_kb, _, reason = said.partition(" ")
    assert "its footer has" in reason
    assert int(above_kb) < 64 * 1024


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (field(1, LIST, b"\xf6\xff\xff\xff\xff\x0f"), "a list of"),
        (field(1, BINARY, b"\xff\xff\xff\xff\x0f"), "cut off"),
        (field(1, I64, b"\xff" * 11), "too long"),
        (field(1, STRUCT, b"") * 40, "nested"),
        (field(1, 11, ZERO), "kind 11"),
    ],
)
def test_what_is_no_footer(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check(data, 10, 10)


def test_a_recordings_own_footer_is_believed(tmp_path: Path) -> None:
    path = tmp_path / "one.parquet"
    write_recording(path, synthetic_records(3000))
    data = path.read_bytes()
    length = struct.unpack("<I", data[-8:-4])[0]
    with pytest.raises(ValueError, match="a list of 1 items"):
        check(data[-8 - length : -8], 0, len(FILE_SCHEMA))
    check(data[-8 - length : -8], 1, len(FILE_SCHEMA))
    with opened(path) as found:
        assert found.metadata.num_row_groups == 1 and MAX_ROW_GROUPS >= 200, "200 hold 100 million records"


def test_small_tables_inside_are_looked_through_too(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="its footer has"):
        table_in(parquet(HOSTILE["parts"]))
    path = tmp_path / "one.parquet"
    write_recording(path, synthetic_records(10))
    assert table_in(path.read_bytes()).metadata.num_rows == pq.read_metadata(path).num_rows
    with pytest.raises(UserError, match="list of 4000"):
        (tmp_path / "bad.parquet").write_bytes(parquet(HOSTILE["row groups"]))
        RecordingFile.open(tmp_path / "bad.parquet")
