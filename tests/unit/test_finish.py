"""A spool, cut off or damaged or whole, becomes a recording: sorted, trimmed to its totals, and frank."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from exitscope.errors import UserError
from exitscope.recordings import finish as finishing
from exitscope.recordings.columns import from_table
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.finish import LOST_NS, finish
from exitscope.recordings.recorder import head
from exitscope.recordings.shelf import find
from exitscope.recordings.spool import SpoolError, SpoolWriter, is_orphan, read_spool
from exitscope_probes.histogram import BUCKETS
from exitscope_probes.records import (
    MODE_KERNEL,
    SERIES,
)
from exitscope_probes.wire import Message, encode

from .frames import Feeder, S
from .recordings import latency_ns

MS = 1_000_000


def spool_of(path: Path, *blocks: list[Message], end: bool = True, vm: str | None = None) -> Path:
    writer = SpoolWriter(path, head("x", "a name", vm))
    for messages in blocks:
        writer.frames(b"".join(map(encode, messages)))
    if end:
        writer.end("finished", "")
    writer.close()
    return path


@pytest.fixture
def feeder() -> Feeder:
    feeder = Feeder()
    feeder.add_vm(1, 2, id="one")
    return feeder


def test_a_spool_cut_off_anywhere_gives_what_was_whole_before(tmp_path: Path, feeder: Feeder) -> None:
    vm = feeder.vms[1]
    blocks = [[*feeder.welcome(), feeder.totals()]]
    for number in range(5):
        feeder.time_ns += S // 10
        blocks.append([feeder.records(vm, [1000 + number] * 10)])
    whole = spool_of(tmp_path / "whole.spool", *blocks)
    data = whole.read_bytes()
    assert len(list(read_spool(whole))) == 8
    seen = set()
    for length in range(0, len(data), 7):
        cut = tmp_path / "cut.spool"
        cut.write_bytes(data[:length])
        try:
            meta = finish(str(cut), str(tmp_path / "cut.parquet"))
        except SpoolError:
            assert length < len(data) // 2
            continue
        seen.add(meta.records)
        assert meta.lost_ns == LOST_NS and "killed" in meta.note and not meta.complete and meta.state == "finished"
        assert (tmp_path / "cut.parquet").stat().st_mode & 0o777 == 0o600
    assert seen == {0, 10, 20, 30, 40, 50}
    whole_meta = finish(str(whole), str(tmp_path / "whole.parquet"))
    assert (whole_meta.lost_ns, whole_meta.note, whole_meta.name) == (0, "", "a name")


def test_a_damaged_spool_is_read_up_to_the_damage(tmp_path: Path, feeder: Feeder) -> None:
    blocks = [[*feeder.welcome(), feeder.totals()], *([feeder.records(feeder.vms[1], [1000])] for _ in range(3))]
    path = spool_of(tmp_path / "a.spool", *blocks)
    data = bytearray(path.read_bytes())
    data[-150] ^= 0xFF
    path.write_bytes(data)
    assert len(list(read_spool(path))) in {3, 4}


def test_what_follows_damage_in_a_spool_is_not_lost(tmp_path: Path, feeder: Feeder) -> None:
    """One block of each place is damaged in turn: its records are missing, the others are not, and it is said."""
    vm = feeder.vms[1]
    blocks = [[*feeder.welcome(), feeder.totals()]]
    for number in range(5):
        feeder.time_ns += S // 10
        blocks.append([feeder.records(vm, [1000 + number] * 10)])
    feeder.time_ns += S // 10
    blocks.append([feeder.totals()])
    whole = spool_of(tmp_path / "whole.spool", *blocks).read_bytes()
    places = [at for at in range(len(whole)) if whole.startswith(b"XSPL", at)]
    for place in places[2:-2]:
        for offset in (0, 5, 9, 13, 17, 30):  # magic, kind, lengths, checksum, what is stored
            data = bytearray(whole)
            data[place + offset] ^= 0xFF
            path = tmp_path / "damaged.spool"
            path.write_bytes(data)
            meta = finish(str(path), str(tmp_path / "damaged.parquet"))
            assert meta.records == 40 and not meta.complete and "the spool was damaged once" in meta.note
    assert finish(str(tmp_path / "whole.spool"), str(tmp_path / "whole.parquet")).records == 50


def test_totals_records_histograms_and_losses_of_a_spool(tmp_path: Path, feeder: Feeder) -> None:
    vm = feeder.vms[1]
    feeder.fault(vm, 0, 5 * MS, 7)
    feeder.exit(vm, 0, "KVM_EXIT_IO", 3)
    first = [*feeder.welcome(), feeder.totals()]  # the recording begins at the last of them
    feeder.fault(vm, 1, 10 * MS, 4)
    feeder.fault(vm, 1, 3_000, 5, MODE_KERNEL)
    feeder.exit(vm, 1, "EFAULT", 4)
    feeder.fill(vm, "COPY", 4)
    feeder.loss["ring_full"] += 2
    feeder.time_ns += S // 10
    records = feeder.records(vm, [10 * MS] * 4, vcpu=1, handler_tid=77, memslot=3)
    path = spool_of(tmp_path / "a.spool", first, [records, feeder.totals()])
    meta = finish(str(path), str(tmp_path / "a.parquet"))
    start, stop = meta.totals.start.vms["one"], meta.totals.stop.vms["one"]
    assert [vcpu.faults["uffd"] for vcpu in start.vcpus] == [7, 0]
    assert [vcpu.faults["uffd"] for vcpu in stop.vcpus] == [7, 4]
    assert [vcpu.faults["kernel"] for vcpu in stop.vcpus] == [0, 5]
    assert stop.vcpus[1].sum_ns["uffd"] == stop.vcpus[1].stall_ns - 15_000 == 40 * MS
    assert stop.vcpus[0].exits == {"KVM_EXIT_IO": 3} and stop.vcpus[1].exits == {"EFAULT": 4}
    assert (start.fills_demand, stop.fills_demand) == ({}, {"COPY": 4})
    assert meta.loss["ring_full"] == 2 and not meta.complete and "2 ring_full" in meta.note
    assert meta.records == 4
    assert all(load.average is not None and load.average >= 0 for load in (meta.load_start, meta.load_stop))
    assert (meta.load_start.vms, meta.load_stop.vms) == (1, 1)
    assert [(handler.tid, handler.fills) for handler in meta.vms[0].handlers] == [(77, 4)]
    assert meta.vms[0].memslots == [3]
    assert [hook["hook"] for hook in meta.hooks] == ["run", "fault"]
    file = RecordingFile.open(tmp_path / "a.parquet")
    histograms = file.histograms()
    assert histograms.keys() == {("one", 1)}
    assert histograms["one", 1][0].sum() == 4 and histograms["one", 1][MODE_KERNEL].sum() == 5
    assert histograms["one", 1].shape == (SERIES, BUCKETS)


def test_records_outside_the_totals_are_left_out(tmp_path: Path, feeder: Feeder) -> None:
    vm = feeder.vms[1]
    welcome = feeder.welcome()
    feeder.time_ns += S // 10
    before = feeder.records(vm, [1000] * 3)
    begin = feeder.totals()
    feeder.time_ns += S // 10
    inside = feeder.records(vm, [1000] * 5)
    end = feeder.totals()
    feeder.time_ns += S // 10
    after = feeder.records(vm, [1000] * 7)
    path = spool_of(tmp_path / "a.spool", [*welcome, before, begin, inside, end, after])
    assert finish(str(path), str(tmp_path / "a.parquet")).records == 5
    path = spool_of(tmp_path / "b.spool", [*welcome, before, begin, inside, end, after], end=False)
    assert finish(str(path), str(tmp_path / "b.parquet")).records == 12, (
        "nothing of what came before a kill is thrown away"
    )


def test_one_vm_of_several(tmp_path: Path, feeder: Feeder) -> None:
    feeder.add_vm(2, 1, id="two")
    path = spool_of(tmp_path / "a.spool", [*feeder.welcome(), feeder.totals()], vm="two")
    meta = finish(str(path), str(tmp_path / "a.parquet"))
    assert [vm.id for vm in meta.vms] == ["two"]
    assert set(meta.totals.stop.vms) == {"two"}


def test_a_restarted_collector_is_a_gap_and_the_totals_go_on(tmp_path: Path, feeder: Feeder) -> None:
    feeder.fault(feeder.vms[1], 0, MS, 3)
    blocks = [*feeder.welcome(), feeder.totals()]
    feeder.fault(feeder.vms[1], 0, MS, 4)
    feeder.time_ns += S // 10
    blocks += [feeder.records(feeder.vms[1], [MS] * 4), feeder.totals()]
    second = Feeder(feeder.time_ns + 3 * S)
    vm = second.add_vm(5, 2, id="one")
    second.fault(vm, 0, MS, 6)
    more = [*second.welcome(), second.records(vm, [MS] * 6), second.totals()]
    meta = finish(str(spool_of(tmp_path / "a.spool", blocks, more)), str(tmp_path / "a.parquet"))
    assert [vcpu.faults["uffd"] for vcpu in meta.totals.start.vms["one"].vcpus] == [3, 0]
    assert [vcpu.faults["uffd"] for vcpu in meta.totals.stop.vms["one"].vcpus] == [13, 0]
    assert [gap.to_ns - gap.from_ns for gap in meta.gaps] == [3 * S]
    assert "no collector ran for 3.0 s" in meta.note and not meta.complete
    table = pq.read_table(tmp_path / "a.parquet")
    assert table["vm"].to_pylist() == ["one"] * 10


def test_the_file_is_sorted_however_late_a_record_comes(
    tmp_path: Path, feeder: Feeder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finishing, "_CHUNK", 500)
    monkeypatch.setattr(finishing, "ROW_GROUP", 1 << 11)
    monkeypatch.setattr(finishing, "MAX_LATE", 300)
    random = np.random.default_rng(3)
    vm = feeder.vms[1]
    blocks, lengths = [[*feeder.welcome(), feeder.totals()]], []
    feeder.time_ns += 500 * S
    for _ in range(60):
        feeder.time_ns += S // 4
        length = (random.pareto(0.3, 200) * 100 * MS).clip(1, 400 * S).astype(np.int64)
        lengths.append(length)
        blocks.append([feeder.records(vm, length.tolist())])
    blocks.append([feeder.totals(0)])
    meta = finish(str(spool_of(tmp_path / "a.spool", *blocks)), str(tmp_path / "a.parquet"))
    found = from_table(pq.read_table(tmp_path / "a.parquet"), {"one": 1})
    assert meta.records == len(found) == 60 * 200
    assert (np.diff(found["begin_ns"].astype(np.int64)) >= 0).all()
    assert sorted(latency_ns(found).tolist()) == sorted(np.concatenate(lengths).tolist())
    assert pq.read_metadata(tmp_path / "a.parquet").num_row_groups >= 5


def test_a_spool_is_an_orphan_once_its_writer_is_gone(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "a.spool", head("a", "", None))
    assert not is_orphan(tmp_path / "a.spool")
    with pytest.raises(UserError, match="still being recorded"):
        find(str(tmp_path / "a.spool"))
    writer.close()
    assert is_orphan(tmp_path / "a.spool")
    with pytest.raises(UserError, match="nothing can be recovered"):
        find(str(tmp_path / "a.spool"))


@pytest.mark.parametrize("asked", ["a.parquet", "a.parquet.spool"])
def test_opening_the_file_of_a_killed_recorder_recovers_it(tmp_path: Path, feeder: Feeder, asked: str) -> None:
    blocks = [*feeder.welcome(), feeder.totals(), feeder.records(feeder.vms[1], [1000] * 3)]
    spool_of(tmp_path / "a.parquet.spool", blocks, end=False)
    file = find(str(tmp_path / asked))
    assert file.path == str(tmp_path / "a.parquet")
    assert "killed" in file.meta.note
    assert not (tmp_path / "a.parquet.spool").exists()
