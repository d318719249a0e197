"""A summary from the digest of a recording says what one from its records says."""

import json
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.query import indexed, summary
from exitscope.query.engine import Engine
from exitscope.query.indexed import Indexed, Records
from exitscope.recordings import digest
from exitscope.recordings.columns import to_table
from exitscope.recordings.digest import DIGEST_KEY
from exitscope.recordings.file import RecordingFile, RecordingWriter
from exitscope.recordings.meta import RecordedVcpu, RecordedVm, RecordingMeta
from exitscope.recordings.slots import MAX_SLOTS
from exitscope_probes.records import (
    ADDRESS_UNKNOWN,
    MODE_ASYNC,
    MODE_EXIT,
    MODE_UFFD,
    SEEN_ACCESS,
    SEEN_FILL,
    SEEN_READ,
    VCPU_OTHER,
    WAITER_ASYNC,
    WAITER_OTHER,
)

from .recordings import START_NS, latency_ns, synthetic_records

S = 1_000_000_000
IDS = {1: "4001-77", 2: "4002-78"}
RECORDS = 30_000
LENGTH_NS = 60 * S


def records() -> npt.NDArray[Any]:
    """Of two VMs, in every mode; some last for seconds, some began before the recording."""
    random = np.random.default_rng(3)
    found = synthetic_records(RECORDS, seconds=LENGTH_NS / S)
    found["begin_ns"][:20] -= 2 * S
    found["vm"] = random.choice([1, 2], RECORDS, p=[0.8, 0.2])
    found["mode"] = random.choice([MODE_UFFD, MODE_EXIT, MODE_ASYNC], RECORDS)
    found["waiter"][found["mode"] == MODE_ASYNC] = WAITER_ASYNC
    other = random.random(RECORDS) < 0.05
    found["waiter"][other], found["vcpu"][other], found["mode"][other] = WAITER_OTHER, VCPU_OTHER, MODE_UFFD
    found["seen"] = random.choice([0, SEEN_ACCESS, SEEN_READ, SEEN_ACCESS | SEEN_READ | SEEN_FILL], RECORDS)
    long = random.random(RECORDS) < 0.001
    found["serve_ns"][long] = random.integers(S // 2, 9 * S, int(long.sum()))
    found["begin_ns"].sort()
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = tmp_path_factory.mktemp("digest")
    with pytest.MonkeyPatch.context() as patched, Engine(directory) as engine:
        patched.setattr(digest, "MIN_RECORDS", 1)
        patched.setattr(digest, "SLOT_NS", S // 8)
        patched.setattr(digest, "MAX_CELLS", 22_000)
        patched.setattr(digest, "MAX_STAGE_CELLS", 22_000)
        patched.setattr(digest, "RECORDS_PER_CELL", 1)
        patched.setattr(indexed, "FEW_RECORDS", 1000)
        found = records()
        table = to_table(found, IDS)
        with RecordingWriter(directory / "r.parquet", START_NS) as writer:
            for first in range(0, RECORDS, 7000):
                writer.write_table(table.slice(first, 7000))
            vms = [RecordedVm(id=id, vcpus=[RecordedVcpu(vcpu=vcpu) for vcpu in range(4)]) for id in IDS.values()]
            writer.close(RecordingMeta(id="r", started_ns=START_NS, ended_ns=START_NS + LENGTH_NS, vms=vms))
        one = {"engine": engine, "recording": RecordingFile.open(directory / "r.parquet")}
        yield one
        one.clear()


def both(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch, *part: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary from the digest, and from the records."""
    engine, recording = made["engine"], made["recording"]
    questions = indexed.questions
    who = []

    def by_reading(*asked: Any) -> Any:
        answering, ticks = questions(*asked)
        who.append(answering)
        return Records(engine, recording), ticks

    fast = summary.summary(engine, recording, *part)
    with monkeypatch.context() as patched:
        patched.setattr(summary, "questions", by_reading)
        slow = summary.summary(engine, recording, *part)
    assert isinstance(who[0], Indexed)
    return fast, slow


def test_of_the_whole(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    at = made["recording"].digest()
    assert at.whole_ns > S // 8  # it had to join slots
    assert at.stages_ns > at.whole_ns
    fast, slow = both(made, monkeypatch)
    assert sum(mode["count"] for mode in fast["modes"].values()) + fast["other"]["count"] == RECORDS
    assert fast == slow


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 30 * S), st.integers(0, 55 * S), st.sampled_from([None, *IDS.values()]))
def test_of_any_part(made: dict[str, Any], from_ns: int, more_ns: int, vm: str | None) -> None:
    length_ns = 3 * made["recording"].digest().whole_ns + more_ns  # two whole slots are in it: 2000 records
    with pytest.MonkeyPatch.context() as patched:
        fast, slow = both(made, patched, vm, START_NS + from_ns, START_NS + from_ns + length_ns)
    assert fast == slow


def test_what_does_not_fit_is_no_digest(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    recording = made["recording"]
    text = recording.extra(DIGEST_KEY)
    assert digest.Digest.find(recording.path, text) is not None
    negative, unknown = text.replace(b'"whole_ns": ', b'"whole_ns": -'), text.replace(b"[0,", b"[9,")
    for wrong in (b"", b"{}", b"[]", text[:-9], negative, unknown):
        assert digest.Digest.find(recording.path, wrong) is None
    monkeypatch.setitem(recording._extra, DIGEST_KEY, text.replace(b'"whole": [', b'"whole": [1'))
    # Damaged, not only absent: the records answer.
    assert summary.summary(made["engine"], recording)["modes"]


def test_unsorted_records_have_none(tmp_path: Path) -> None:
    found = synthetic_records(100)
    found["begin_ns"] = found["begin_ns"][::-1]
    log = digest.DigestLog()
    log.add(to_table(found, IDS))
    log.records = digest.MIN_RECORDS
    with open(tmp_path / "x", "wb") as file:
        assert log.write(file, START_NS) == b""


def test_slots_stay_few_however_long_it_lasts(tmp_path: Path) -> None:
    found = synthetic_records(3000, seconds=1)
    found["begin_ns"][1500:] += 400 * 86_400 * S
    log = digest.DigestLog(START_NS)
    for first in range(0, 3000, 500):
        log.add(to_table(found[first : first + 500], IDS))
    log.records = digest.MIN_RECORDS
    path = tmp_path / "x"
    with open(path, "wb") as file:
        text = log.write(file, int(found["begin_ns"][-1]) + S)
    at = digest.Digest.find(str(path), text)
    assert at is not None
    whole = at.columns("whole_lengths")
    assert whole["slot"].max() < MAX_SLOTS
    assert whole["count"].sum() == 3000
    assert at.columns("stall")["ns"].sum() == latency_ns(found).sum()
    assert at.columns("gpa")["count"].sum() == int((found["gpa"] != ADDRESS_UNKNOWN).sum())
    assert path.stat().st_size < 200_000


def test_peaks_are_of_moments_not_of_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "SLOT_NS", S)
    found = synthetic_records(4, vcpus=4)
    found["begin_ns"] = START_NS + np.array([0, 10, 20, 30]) * S // 100
    for name in ("raise_ns", "notify_ns", "fill_ns", "finish_ns"):
        found[name] = 0
    found["serve_ns"] = np.array([15, 15, 3 * 100, 10]) * S // 100  # two at once, at most; the third for three seconds
    log = digest.DigestLog(START_NS)
    log.add(to_table(found, IDS))
    log.records = digest.MIN_RECORDS
    with TemporaryFile() as file:
        text = log.write(file, START_NS + 5 * S)
        file.seek(0)
        places = json.loads(text)["tables"]["peaks"]
        data = file.read()[places[0] : sum(places)]
    rows = pq.read_table(pa.BufferReader(data)).to_pylist()
    assert {(row["slot"], row["most"]) for row in rows} == {(0, 2), (1, 1), (2, 1), (3, 1)}
