"""Spools of somebody who means harm: what can be read becomes a recording that can be asked, else one SpoolError."""

import json
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given

from exitscope.recordings.file import RecordingFile
from exitscope.recordings.finish import finish
from exitscope.recordings.recorder import head
from exitscope.recordings.spool import Block, Kind, SpoolError, SpoolWriter, read_spool
from exitscope.recordings.synthesis import Synthesis

from .mutations import draws, examples, hostile_bytes, hostile_json
from .test_fuzz_frames import CORPUS, hostile

_HEADER = struct.Struct("<4sIIIIQ")


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fuzz") / "right.spool"
    writer = SpoolWriter(path, head("right", "a name", None))
    writer.frames(b"".join(CORPUS[:3]))
    writer.frames(b"".join(CORPUS[3:]))
    writer.end("finished", "")
    writer.close()
    return path


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def block(kind: int, data: bytes, time_ns: int) -> bytes:
    """A block whose checksum is right."""
    stored: bytes = pa.compress(data, "zstd", asbytes=True)
    return _HEADER.pack(b"XSPL", kind, len(stored), len(data), zlib.crc32(stored), time_ns) + stored


def ask(path: Path) -> bool:
    """Finish it and look into what was made; False if that is a SpoolError."""
    made = path.with_suffix(".parquet")
    try:
        finish(str(path), str(made))
    except SpoolError as error:
        assert str(error) and "\n" not in str(error)
        return False
    file = RecordingFile.open(made, follow=False)
    file.counters()
    file.histograms()
    if file.meta.records < 1000 and file.meta.ended_ns > file.meta.started_ns:
        synthesis = Synthesis(file, file.meta.started_ns)
        synthesis.welcome()
        synthesis.advance(file.meta.ended_ns)
    return True


def test_the_right_one_is_finished(right: Path) -> None:
    assert ask(right)


@examples(20)
@given(draws())
def test_bytes(right: Path, draw: random.Random) -> None:
    path = right.with_name("bytes.spool")
    path.write_bytes(hostile_bytes(right.read_bytes(), draw))
    ask(path)


@examples(30)
@given(draws())
def test_blocks_with_right_checksums(right: Path, draw: random.Random) -> None:
    path, blocks = right.with_name("blocks.spool"), []
    for one in read_spool(right):
        data, time_ns = one.data, one.time_ns
        if one.kind is Kind.FRAMES:
            data, rest = b"", data
            for frame in CORPUS:
                if rest.startswith(frame):
                    rest = rest[len(frame) :]
                    data += hostile(frame, draw) if draw.randrange(3) == 0 else frame
        elif draw.randrange(2):
            data = hostile_json(json.loads(data), draw)
        if draw.randrange(6) == 0:
            time_ns = draw.choice((0, 1 << 60, 1 << 62, 1 << 63, (1 << 64) - 1))
        blocks.append(block(one.kind, data, time_ns))
    path.write_bytes(b"".join(blocks))
    ask(path)


@pytest.mark.parametrize("wall_ms", [-1, (1 << 53) + 1, (1 << 63) - 1])
def test_a_moment_that_cannot_be_added_to_is_not_believed(wall_ms: int) -> None:
    """With a migration in it, the recording was finished and could not be opened."""
    head = Block(Kind.HEAD, 0, json.dumps({"name": "one", "started_wall_ms": wall_ms}).encode())
    assert head.json() == {"name": "one"}
