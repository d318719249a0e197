"""Reports over HTTP and from the command line, as JSON, as text and as one HTML file."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fastapi import FastAPI
from starlette.testclient import TestClient

from exitscope import api_errors, api_report
from exitscope.cli import main
from exitscope.migration_report.models import MigrationReport
from exitscope.recordings.library import Library, Limits
from exitscope.recordings.recorder import head
from exitscope.recordings.spool import SpoolWriter

from .migration_recordings import destination, migrated_records, source, write_migration
from .recordings import write_recording

ID = "20260101-000000-test"
EVIL = "<script>alert(1)</script>&amp;"
STEERING = "\x1b[31m\u202edesrever\u2066\u200b"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recordings")
    records = migrated_records(800)
    evil = destination(records, vm_name=EVIL, evidence=[EVIL, STEERING])
    write_migration(directory / f"{ID}.parquet", records, evil, source(), name=EVIL)
    write_recording(directory / "without.parquet", id="without")
    return directory


@pytest.fixture(scope="module")
def client(directory: Path) -> Iterator[TestClient]:
    app = FastAPI()
    app.state.library = Library(directory, Limits(), None)
    api_errors.install(app)
    app.include_router(api_report.router)
    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def at(id: str, number: object, what: str = "report") -> str:
    return f"/api/v1/recordings/{id}/migrations/{number}/{what}"


def test_json(client: TestClient) -> None:
    answer = client.get(at(ID, 0))
    assert answer.status_code == 200, answer.text
    made = MigrationReport.model_validate(answer.json())
    assert (made.vm_name, made.kind, made.role) == (EVIL, "postcopy", "destination")
    assert answer.content == client.get(at(ID, 0)).content


def test_html(client: TestClient) -> None:
    answer = client.get(at(ID, 0, "report.html"))
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "attachment" in answer.headers["content-disposition"]
    page = answer.text
    assert EVIL not in page and "&lt;script&gt;alert(1)&lt;/script&gt;&amp;amp;" in page
    before_plotly = page.split("<script>", 1)[0]
    assert "\ufffd[31m\ufffddesrever" in before_plotly
    assert not set("\x1b\u202e\u2066\u200b") & set(before_plotly)
    assert "http://" not in page.split("<script>", 1)[0].replace("http://www.w3.org", "")
    for title in ("Worst moments", "Slowest faults", "QEMU&#x27;s account and ours", "What is not known"):
        assert title in page, title


def test_html_is_in_utc_wherever_the_server_is(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    began_s = client.get(at(ID, 0)).json()["started_wall_ms"] // 1000
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Kolkata")
        time.tzset()
        page = client.get(at(ID, 0, "report.html")).text
    time.tzset()
    assert f"Began {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime(began_s))}" in page


@pytest.mark.parametrize("what", ["report", "report.html"])
@pytest.mark.parametrize(
    ("id", "number", "status", "code", "parameter"),
    [
        (ID, 2, 404, "unknown_migration", "number"),
        ("without", 0, 404, "unknown_migration", "number"),
        ("nothing", 0, 404, "unknown_recording", "id"),
        (ID, -1, 422, "invalid_parameter", "number"),
        (ID, "x", 422, "invalid_parameter", "number"),
        (ID, 10**30, 422, "invalid_parameter", "number"),
        ("running", 0, 409, "not_finished", None),
    ],
)
def test_errors(
    client: TestClient, directory: Path, what: str, id: str, number: object, status: int, code: str, parameter: str
) -> None:
    if id == "running" and not (directory / "running.spool").exists():
        SpoolWriter(directory / "running.spool", head("running", "", None))
    answer = client.get(at(id, number, what))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error.get("parameter")) == (status, code, parameter)
    assert error["message"] and set(error) <= {"code", "message", "hint", "parameter"}


def exitscope(directory: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["migration", "--recordings", str(directory), *arguments])


def test_text(directory: Path) -> None:
    said = exitscope(directory, ID)
    assert said.exit_code == 0, said.output
    assert said.output.startswith(f"Postcopy of {EVIL} took ")
    for title in ("Phases", "Worst moments", "QEMU's account and ours", "What is not known", "vCPU by vCPU"):
        assert f"\n{title}" in said.output
    by_file = exitscope(directory, str(directory / f"{ID}.parquet"))
    assert by_file.output == said.output
    assert "seen from its source" in exitscope(directory, ID, "--migration", "1").output


def test_json_and_html_files(directory: Path, tmp_path: Path) -> None:
    said = exitscope(directory, ID, "--json", "--html", str(tmp_path / "report.html"))
    assert said.exit_code == 0, said.output
    assert MigrationReport.model_validate(json.loads(said.output)).recording_name == EVIL
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["without"], 1, "no migration 0 in the recording: it has no migration"),
        ([ID, "--migration", "5"], 1, "it has 2, from 0 on"),
        (["nothing"], 1, "nothing"),
        ([ID, "--html", "/nowhere/report.html"], 1, "cannot write /nowhere/report.html"),
        ([ID, "--migration", "-1"], 2, "--migration"),
        ([], 2, "RECORDING"),
    ],
)
def test_mistakes(directory: Path, arguments: list[str], status: int, said: str) -> None:
    result = exitscope(directory, *arguments)
    assert (result.exit_code, said in result.output) == (status, True), result.output
    if status == 1:
        assert len(result.output.strip().splitlines()) == 1
