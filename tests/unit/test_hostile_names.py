"""Names of VMs, threads and recordings are strangers': no output lets them steer a terminal or a spreadsheet."""

import csv
import io
import json
import logging
import os
import pty
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from exitscope.cli import main
from exitscope.export.formats import FORMATS
from exitscope.query.engine import Engine
from exitscope.query.faults import Filters
from exitscope.recordings.file import RecordingFile, RecordingWriter
from exitscope_probes.errors import ProbeError, fail
from exitscope_probes.isolated import python
from exitscope_probes.plainlog import log_to_stderr
from exitscope_probes.wire import HEADER_BYTES, Message, decode_body, decode_header, encode

from .frames import Feeder
from .migration_recordings import destination, migrated_meta, migrated_records
from .perfetto_reader import parse
from .test_metrics import fed, samples

NAMES = (
    "\x1b]0;owned\x07\x1b[2J",  # sets the title, clears the screen
    "\x9b31mred",  # CSI in one character
    "a\nexitscope: all is well\rb",
    "\u202egnp.exe\u2066",  # right to left
    "=HYPERLINK(\"http://evil.example\",\"x\")",
    "+1", "-1+2", "@SUM(A1)", "\t=1+1", "\r=1",
    "<script>alert(1)</script>&\"'",
    "$(reboot)`reboot`%s{0}",
    "name,with;commas\"quotes\"",
)  # fmt: skip
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def hostile(path: Path, name: str) -> Path:
    """A recording in which everything that a stranger names is called so."""
    records = migrated_records(400)
    known = {"vm_name": name, "evidence": [name]}
    meta = migrated_meta(records, destination(records, **known), name=name, note=f"of {name}", host=name)
    for vm in meta.vms:
        vm.name = vm.id = name
        vm.vmm = vm.command = name
        for thread in vm.handlers:
            thread.name = name
    for migration in meta.migrations:
        migration.vm = name
    with RecordingWriter(path) as writer:
        writer.write(records, {1: name})
        writer.close(meta)
    return path


@pytest.fixture(params=NAMES, ids=range(len(NAMES)))
def recording(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    return hostile(tmp_path / "r.parquet", request.param), request.param


def exported(path: Path, format: str) -> bytes:
    with Engine(path.parent) as engine:
        return b"".join(FORMATS[format].stream(engine, RecordingFile.open(path), Filters(limit=5)))


def test_no_command_lets_a_name_steer_the_terminal(recording: tuple[Path, str]) -> None:
    path, name = recording
    for command in (
        *(["summary", path], ["summary", path, "--json"], ["migration", path], ["migration", path, "--json"]),
        *(["compare", path, path], ["compare", path, path, "--json"], ["export", path, "--vm", f"no {name}"]),
    ):
        done = CliRunner().invoke(main, list(map(str, command)))
        assert done.exit_code in {0, 1}, done.exception
        assert not STEERING.search(done.stdout + done.stderr), command
        assert "\nexitscope: all is well" not in done.stdout + done.stderr


@pytest.mark.parametrize("format", ["csv", "json"])
def test_an_export_on_a_terminal_steers_it_no_more(format: str, tmp_path: Path) -> None:
    path = hostile(tmp_path / "r.parquet", NAMES[0])
    ours, theirs = pty.openpty()
    command = [*python("exitscope"), "export", str(path), "--format", format, "--limit", "2"]
    with subprocess.Popen(command, stdout=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # all who could write are gone
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"owned" in shown
    assert not STEERING.search(shown.decode().replace("\r\n", "\n"))


def test_csv_has_no_cell_that_a_spreadsheet_would_calculate(recording: tuple[Path, str]) -> None:
    path, name = recording
    rows = list(csv.DictReader(io.StringIO(exported(path, "csv").decode(), newline="")))
    assert len(rows) == 5
    apostrophe = "'" if name[0] in "=+-@\t\r\n" else ""
    assert {row["vm"] for row in rows} == {apostrophe + name}
    assert [int(row["vcpu"]) for row in rows] == [row["vcpu"] for row in json.loads(exported(path, "json"))["faults"]]


def test_json_and_perfetto_keep_a_name_as_it_is(recording: tuple[Path, str]) -> None:
    path, name = recording
    assert {row["vm"] for row in json.loads(exported(path, "json"))["faults"]} == {name}
    assert parse(exported(path, "perfetto")).slices


def sent(message: Message) -> Message:
    """As it comes out of a socket."""
    frame = encode(message)
    return decode_body(decode_header(frame[:HEADER_BYTES]), frame[HEADER_BYTES:])


def test_prometheus_reads_every_name() -> None:
    feeder = Feeder()
    for number, name in enumerate(NAMES, 1):
        feeder.add_vm(number, 1, id=f"vm-{number}").name = name
    told = samples(fed(list(map(sent, feeder.welcome()))))
    labels = [dict(labels) for name, labels in told if name == "exitscope_vm_info"]
    found = {one["vm"]: one["name"] for one in labels}
    assert len(found) == len(NAMES)
    assert not [name for name in found.values() if STEERING.search(name)]


def test_errors_and_logs_are_plain(capfd: pytest.CaptureFixture[str]) -> None:
    fail(ProbeError("\x1b[2Jno\nexitscope: all is well"))
    handler = log_to_stderr("exitscope test")
    record: Any = logging.LogRecord("x", logging.INFO, "", 1, "of %s", ("\x1b[2J\nforged",), None)
    assert handler.format(record) == "exitscope test: of \ufffd[2J forged"
    assert capfd.readouterr().err == "exitscope: \ufffd[2Jno exitscope: all is well\n"
