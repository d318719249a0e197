"""`exitscope export` and `exitscope summary` as a user meets them."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from exitscope.cli import main
from exitscope.query.faults import COLUMNS
from exitscope_probes.records import ADDRESS_UNKNOWN

from .perfetto_reader import parse
from .recordings import VM, synthetic_records, write_recording
from .test_cli import ENVIRONMENT

ID = "20260101-000000-test"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_recording(tmp_path / f"{ID}.parquet", synthetic_records(500))
    return tmp_path


def exitscope(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [arguments[0], "--recordings", str(directory), *arguments[1:]])


def test_export_by_id_and_by_file(directory: Path) -> None:
    by_id = exitscope(directory, "export", ID, "--format", "csv", "--vcpu", "1", "--limit", "3")
    assert by_id.exit_code == 0, by_id.output
    lines = by_id.output.splitlines()
    assert lines[0] == ",".join(COLUMNS)
    assert len(lines) == 4
    by_file = exitscope(directory, "export", str(directory / f"{ID}.parquet"), "--format", "csv", "--vcpu", "1")
    assert by_file.output.splitlines()[:4] == lines


def test_export_to_files(directory: Path) -> None:
    for format in ("json", "csv", "parquet", "arrow", "perfetto"):
        made = directory / f"out.{format}"
        done = exitscope(directory, "export", ID, "--format", format, "-o", str(made), "--from", "2", "--to", "4.5")
        assert (done.exit_code, done.output) == (0, "")
        assert made.stat().st_size > 1000
    faults = json.loads((directory / "out.json").read_text())["faults"]
    assert pq.read_metadata(directory / "out.parquet").num_rows == len(faults)
    assert sum(one.name == "uffd fault" for one in parse((directory / "out.perfetto").read_bytes()).slices) == len(
        faults
    )
    assert not list(directory.glob("*.part"))


def test_a_whole_recording_has_the_columns_of_a_part(directory: Path) -> None:
    made = {}
    for name, arguments in (("whole", ()), ("part", ("--from", "0"))):
        made[name] = directory / f"{name}.out.parquet"
        done = exitscope(directory, "export", ID, "--format", "parquet", "-o", str(made[name]), *arguments)
        assert (done.exit_code, done.output) == (0, "")
    whole, part = (pq.read_table(path) for path in made.values())
    assert whole.equals(part)
    assert whole.column_names == list(COLUMNS)
    recorded = synthetic_records(500)
    assert whole["hva"].to_pylist() == [int(hva) if hva != ADDRESS_UNKNOWN else None for hva in recorded["hva"]]
    assert set(whole["access"].to_pylist()) <= {None, "read", "write", "exec", "read+write", "read+write+exec"}
    column = pq.read_metadata(made["whole"]).row_group(0).column(0)
    assert set(column.encodings) <= {"PLAIN", "RLE", "RLE_DICTIONARY", "PLAIN_DICTIONARY"}  # what every reader knows


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("export", "nobody"), 1, "nobody"),
        (("summary", __file__), 1, "is not a recording"),
        (("export", ID, "--vm", "nobody"), 1, f"it has {VM}"),
        (("summary", ID, "--from", "3", "--to", "2"), 2, "--to"),
        (("export", ID, "-o", "/nonexistent/file"), 1, "No such file"),
        (("export", ID, "--format", "xml"), 2, "--format"),
    ],
)
def test_a_mistake_is_one_line(directory: Path, arguments: tuple[str, ...], status: int, words: str) -> None:
    done = exitscope(directory, *arguments)
    assert done.exit_code == status
    assert words in done.output
    assert "Traceback" not in done.output


def test_a_recording_is_not_overwritten_by_its_export(directory: Path) -> None:
    done = exitscope(directory, "export", ID, "-o", str(directory / f"{ID}.parquet"))
    assert done.exit_code == 1
    assert "the recording itself" in done.output


def test_summary_as_tables_and_as_json(directory: Path) -> None:
    shown = exitscope(directory, "summary", ID)
    assert shown.exit_code == 0, shown.output
    assert "uffd" in shown.output
    assert json.loads(exitscope(directory, "summary", ID, "--json").output)["modes"]["uffd"]["count"] == 500
    part = exitscope(directory, "summary", ID, "--json", "--from", "1", "--to", "2", "--vm", VM)
    assert json.loads(part.output)["source"] == "records"


def test_a_reader_that_has_seen_enough_ends_it_quietly(directory: Path) -> None:
    write_recording(directory / f"{ID}.parquet", synthetic_records(50_000))
    command = [sys.executable, "-m", "exitscope", "export", ID, "--recordings", str(directory), "--format", "csv"]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 0
