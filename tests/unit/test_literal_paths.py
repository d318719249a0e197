"""A path is that file alone, whatever characters it has: DuckDB would take patterns, and folders called name=value."""

from pathlib import Path

import pytest

from exitscope.compare.reading import profile
from exitscope.errors import UserError
from exitscope.export.formats import FORMATS
from exitscope.query.engine import Engine
from exitscope.query.faults import Filters
from exitscope.query.summary import summary
from exitscope.recordings import belief
from exitscope.recordings.file import RecordingFile

from .recordings import synthetic_meta, synthetic_records, write_recording

NAMES = ["run[1]", "run*", "run?", "[!a]", "**", "a{b,c}", "q'uote", "vm=3", "sp ace", "ü"]


@pytest.mark.parametrize("name", NAMES)
def test_only_the_named_file_is_read(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "vm=other" / "d[x]*"
    folder.mkdir(parents=True)
    for other in ("run1", "run", "b", "a", "ab", "x[y]"):
        write_recording(folder / f"{other}.parquet", synthetic_records(90))
    file = write_recording(folder / f"{name}.parquet", synthetic_records(50))
    with Engine(folder) as engine:
        text = b"".join(FORMATS["csv"].stream(engine, file, Filters())).decode()
        assert text.count("\n") == 51 and file.meta.vms[0].id in text and "other" not in text
        found = summary(engine, file, None, file.meta.started_ns, file.meta.ended_ns - 1)
        assert sum(vcpu["faults"]["uffd"] for vcpu in found["vcpus"]) in (49, 50)
    assert profile(file) is not None


def test_a_backslash_is_read_but_for_patterns(tmp_path: Path) -> None:
    records = synthetic_records(50)
    with Engine(tmp_path) as engine:
        file = write_recording(tmp_path / "x\\y.parquet", records)
        assert b"".join(FORMATS["csv"].stream(engine, file, Filters())).count(b"\n") == 51
        file = write_recording(tmp_path / "x\\[y].parquet", records)
        with pytest.raises(UserError, match="rename it"):
            list(FORMATS["csv"].stream(engine, file, Filters()))


@pytest.mark.parametrize(
    ("what", "words"),
    [("vcpus", "vCPUs, at most"), ("length", "it lasts for"), ("below 0", "below 0"), ("vms", "VMs, at most")],
)
def test_sizes_that_no_host_has_are_refused(
    tmp_path: Path, what: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = synthetic_records(50)
    meta = synthetic_meta(records)
    vm = meta.vms[0]
    match what:
        case "vcpus":
            vm.vcpus = [vm.vcpus[0].model_copy(update={"vcpu": number}) for number in range(belief.MAX_VCPUS + 1)]
        case "vms":
            monkeypatch.setattr(belief, "MAX_VMS", 3)
            meta.vms = [vm.model_copy(update={"id": str(number)}) for number in range(4)]
        case "length":
            meta.ended_ns = 1 << 59
        case _:
            meta.totals.stop.vms[vm.id].vcpus[0].faults["uffd"] = -1
    with pytest.raises(UserError, match=words):
        write_recording(tmp_path / "a.parquet", records, meta)


def test_a_footer_that_says_it_is_larger_than_the_file(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "a.parquet")
    data = Path(file.path).read_bytes()
    for size in (len(data) + 1, 1 << 30, (1 << 32) - 1):
        (tmp_path / "b.parquet").write_bytes(data[:-8] + size.to_bytes(4, "little") + data[-4:])
        with pytest.raises(UserError, match="a footer of"):
            RecordingFile.open(tmp_path / "b.parquet")
