"""Recordings of somebody who means harm: each question to them is answered, or ends in one UserError."""

import base64
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from exitscope.compare.reading import profile
from exitscope.errors import UserError
from exitscope.export.formats import FORMATS
from exitscope.migration_report.report import report
from exitscope.query.engine import Engine
from exitscope.query.faults import Filters
from exitscope.query.summary import summary
from exitscope.recordings import digest
from exitscope.recordings.columns import FILE_SCHEMA
from exitscope.recordings.counters import HARDWARE_COUNTS, KERNEL_CELLS, CounterLog, Owner
from exitscope.recordings.digest import DIGEST_KEY
from exitscope.recordings.file import (
    COUNTERS_KEY,
    HISTOGRAM_CELL_DTYPE,
    HISTOGRAMS_KEY,
    META_KEY,
    RecordingFile,
    RecordingWriter,
)
from exitscope.recordings.synthesis import Synthesis
from exitscope_probes.wire import WireError, encode

from .migration_recordings import destination, migrated_meta, migrated_records, source
from .mutations import draws, examples, hostile_bytes, hostile_json
from .recordings import VM

S: Final = 1_000_000_000
_NUMBERS: Final = (-(1 << 63), -1, 0, 1, 1 << 31, 1 << 60, 1 << 62, (1 << 63) - 1)
_NAMES: Final = ("", "uffd", "nosuch", "\x1b[2J\u202e", "x" * 5000, "4001-77")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def right(folder: Path) -> Path:
    """A recording with everything that one may hold."""
    records = migrated_records(400)
    meta = migrated_meta(records, source(), destination(records))
    log = CounterLog(meta.started_ns)
    for second in range(8):
        log.add(meta.started_ns + second * S + 1, 0, slice(0, 16), np.arange(16) + second)
        columns = np.array((3, 30, 50, KERNEL_CELLS.start, HARDWARE_COUNTS.start))
        log.add(meta.started_ns + second * S + 1, 1, columns, np.full(5, 7))
    cells = np.zeros(len(records), HISTOGRAM_CELL_DTYPE)
    cells["bucket"], cells["count"] = np.arange(len(cells)), 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(digest, "MIN_RECORDS", 1)
        with RecordingWriter(folder / "right.parquet", meta.started_ns) as writer:
            writer.write(records[np.argsort(records["begin_ns"])], {1: VM})
            writer.close(meta, cells, log.pack([Owner(VM, None), Owner(VM, 1, 9001)]))
    return folder / "right.parquet"


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[Engine]:
    with Engine(folder) as found:
        yield found


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A sum that overflows is an error here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def ask(engine: Engine, path: Path) -> int:
    """Every question; how many were answered."""
    try:
        file = RecordingFile.open(path, follow=False)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 700
        return 0
    answered = 1
    middle_ns = (file.meta.started_ns + file.meta.ended_ns) // 2
    questions: list[Any] = [
        lambda: json.dumps(summary(engine, file)),
        lambda: json.dumps(summary(engine, file, None, middle_ns, None)),
        lambda: profile(file),
        lambda: [encode(message) for message in _replayed(file, middle_ns)],
        *(lambda number=number: report(engine, file, number) for number in range(len(file.meta.migrations))),
        *(lambda one=one: list(one.stream(engine, file, Filters())) for one in FORMATS.values()),
    ]
    for question in questions:
        try:
            question()
            answered += 1
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 700
    return answered


def _replayed(file: RecordingFile, from_ns: int) -> list[Any]:
    try:
        synthesis = Synthesis(file, from_ns)
        return [*synthesis.welcome(), *synthesis.advance(from_ns + S), *synthesis.advance(file.meta.ended_ns)]
    except (UserError, WireError):
        raise
    except Exception as error:  # switch.py ends the replay with this reason
        raise UserError(f"{type(error).__name__}") from None


def rewritten(path: Path, table: pa.Table, footer: dict[bytes, bytes]) -> None:
    """A file of these columns and values of the footer."""
    pq.write_table(table.replace_schema_metadata(footer), path, store_schema=True)


def test_the_right_one_is_answered(engine: Engine, right: Path) -> None:
    assert ask(engine, right) == 12


@examples(25)
@given(draws())
def test_bytes(engine: Engine, folder: Path, right: Path, draw: random.Random) -> None:
    data = right.read_bytes()
    if draw.randrange(3):  # the footer, which is a sixth of it
        length = int.from_bytes(data[-8:-4], "little")
        cut = len(data) - 8 - length
        footer = hostile_bytes(data[cut:-8], draw)
        length = len(footer) if draw.randrange(8) else draw.choice((0, 1 << 20, 1 << 31, (1 << 32) - 1))
        data = data[:cut] + footer + length.to_bytes(4, "little") + data[-4:]
    else:
        data = hostile_bytes(data, draw)
    (folder / "bytes.parquet").write_bytes(data)
    ask(engine, folder / "bytes.parquet")


@examples(25)
@given(draws())
def test_values_of_the_footer(engine: Engine, folder: Path, right: Path, draw: random.Random) -> None:
    table = pq.read_table(right)
    footer = dict(pq.read_metadata(right).metadata)
    key = draw.choice((META_KEY, META_KEY, META_KEY, COUNTERS_KEY, HISTOGRAMS_KEY, DIGEST_KEY))
    if key in (META_KEY, DIGEST_KEY):
        footer[key] = hostile_json(json.loads(footer[key]), draw)
    else:
        mark = b"|" if key == HISTOGRAMS_KEY else b"\n"
        head, _, packed = footer[key].partition(mark)
        match draw.randrange(3):
            case 0 if key == COUNTERS_KEY:
                head = hostile_json(json.loads(head), draw)
            case 0 | 1:
                length = int(head) if key == HISTOGRAMS_KEY else json.loads(head)["entries"] * 16
                raw = hostile_bytes(pa.decompress(base64.b64decode(packed), length, "zstd", asbytes=True), draw)
                packed = base64.b64encode(pa.compress(raw, "zstd", asbytes=True))
                head = str(len(raw)).encode() if key == HISTOGRAMS_KEY else head
            case _:
                head, packed = draw.choice(((head, hostile_bytes(packed, draw)), (hostile_bytes(head, draw), packed)))
        footer[key] = head + mark + packed
    rewritten(folder / "footer.parquet", table, footer)
    ask(engine, folder / "footer.parquet")


@examples(25)
@given(draws())
def test_values_of_the_columns(engine: Engine, folder: Path, right: Path, draw: random.Random) -> None:
    table = pq.read_table(right)
    for _ in range(draw.choice((1, 2, 4))):
        place = draw.randrange(len(FILE_SCHEMA))
        field = FILE_SCHEMA.field(place)
        if pa.types.is_dictionary(field.type):
            values: Any = [draw.choice(_NAMES) if draw.randrange(4) == 0 else "uffd" for _ in range(table.num_rows)]
            column = pa.array(values, pa.string()).dictionary_encode().cast(field.type)
        else:
            kind = np.dtype(str(field.type))
            array = np.array(table.column(place).fill_null(0).to_numpy(), kind)
            for _ in range(draw.choice((1, 5, 200))):
                array[draw.randrange(len(array))] = np.array(draw.choice(_NUMBERS)).astype(kind)
            column = pa.array(array, field.type)
        table = table.set_column(place, field, column)
    rewritten(folder / "columns.parquet", table, dict(pq.read_metadata(right).metadata))
    ask(engine, folder / "columns.parquet")
