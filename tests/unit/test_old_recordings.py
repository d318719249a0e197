"""Recordings of every released version play with their right totals.

Made by the released code under two real guests of two vCPUs, `--pages 300 --mode uffd` and `--pages 200 --mode exit`,
which counted their own faults: 150 and 100 per vCPU.
"""

from pathlib import Path

import numpy as np
import pytest

from exitscope.aggregate import Aggregate
from exitscope.query.engine import Engine
from exitscope.query.summary import summary
from exitscope.recordings.file import RecordingFile
from exitscope.recordings.synthesis import Synthesis
from exitscope.replay import open_recording, read_recording
from exitscope_probes.records import EXIT_NAMES, MEMSLOT_UNKNOWN, MODE_EXIT, MODE_UFFD, MODES, RESOLVERS, STAGE_SERIES
from exitscope_probes.wire import Kind, Message

DATA = Path(__file__).parent / "data/recordings"
FRAMES = sorted(DATA.glob("version-*.frames.gz"))
FILES = sorted(DATA.glob("version-*.parquet"))
GUESTS = {"fix-uffd": (MODE_UFFD, 300), "fix-exit": (MODE_EXIT, 200)}


def messages(path: Path) -> list[Message]:
    with open_recording(str(path)) as file:
        return list(read_recording(file))


def test_there_is_one_of_each_released_version() -> None:
    assert [path.name for path in FRAMES] == [f"version-{n}.frames.gz" for n in (1, 2, 3)]
    assert [path.name for path in FILES] == [f"version-{n}.parquet" for n in (2, 3)], "version 1 had no Parquet files"


@pytest.mark.parametrize("path", FRAMES, ids=lambda path: path.name)
def test_frames_play_with_their_right_totals(path: Path) -> None:
    aggregate = Aggregate()
    said = messages(path)
    for message in said:
        aggregate.handle(message)
    assert {vm.name for vm in aggregate.vms} == GUESTS.keys()
    assert not any(aggregate.ledger.values())
    records = np.concatenate([message.arrays["records"] for message in said if message.kind is Kind.FAULTS])
    stages_ns = [f"{stage}_ns" for stage in ("raise", "notify", "serve", "fill", "finish")]
    for vm in aggregate.vms:
        mode, faults = GUESTS[vm.name]
        totals = vm.totals(aggregate.rows)
        mine = records[records["vm"] == vm.number]
        assert vm.faults(aggregate.rows)[MODES[mode]] == faults == len(mine)
        assert totals["series"]["count"][:, mode].tolist() == [faults // 2] * 2
        lengths_ns = sum(mine[name].astype(np.int64) for name in stages_ns)
        assert totals["series"]["sum_ns"][:, mode].sum() == lengths_ns.sum(), "exact totals agree with the records"
        assert totals["series"]["max_ns"][:, mode].max() == lengths_ns.max()
        for series, (family, _) in enumerate(STAGE_SERIES, len(MODES)):
            assert totals["series"]["count"][:, series].sum() == (faults if family == MODES[mode] else 0)
        exits = dict(zip(EXIT_NAMES, totals["exits"].sum(axis=0).tolist(), strict=True))
        assert exits["EFAULT"] == (200 if mode == MODE_EXIT else 0)
        assert aggregate.fills.now[vm.row].tolist()[RESOLVERS.index("COPY")] == faults
        assert aggregate.histograms.now[vm.vcpu_rows()].sum() == totals["series"]["count"].sum()
        expected = {MEMSLOT_UNKNOWN} if "version-1" in path.name else {1}
        assert set(mine["memslot"].tolist()) == expected, "what was not recorded is not known"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_play_and_are_summarised_with_their_right_totals(path: Path) -> None:
    file = RecordingFile.open(path)
    synthesis, aggregate = Synthesis(file, file.meta.started_ns), Aggregate()
    for message in [*synthesis.welcome(), *synthesis.advance(file.meta.ended_ns)]:
        aggregate.handle(message)
    for vm in aggregate.vms:
        mode, faults = GUESTS[vm.name]
        assert vm.faults(aggregate.rows)[MODES[mode]] == faults
    with Engine(DATA) as engine:
        found = summary(engine, file)
    counted = {vm["name"]: vm["faults"] for vm in found["vms"]}
    assert {name: counted[name][MODES[mode]] for name, (mode, _) in GUESTS.items()} == {
        name: count for name, (_, count) in GUESTS.items()
    }
