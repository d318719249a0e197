"""Summary and faults of a recording over HTTP: answers, headers, ranges, and what is refused."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from exitscope.api_faults import MAX_EXPORTS
from exitscope.app import create_app
from exitscope.export.formats import FORMATS
from exitscope.query.models import Faults, RecordingSummary
from exitscope.recordings.library import Library, Limits

from .recordings import START_NS, VM, synthetic_records, write_recording
from .test_hub import FeederSource

ID = "20260101-000000-test"
S = 1_000_000_000
COUNT = 1200


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    write_recording(tmp_path / f"{ID}.parquet", synthetic_records(COUNT))
    return tmp_path


@pytest.fixture
def client(directory: Path) -> Iterator[TestClient]:
    app = create_app(FeederSource(), library=Library(directory, Limits(), None))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def url(what: str, id: str = ID) -> str:
    return f"/api/v1/recordings/{id}/{what}"


def test_summary_of_a_whole_and_of_a_part(client: TestClient) -> None:
    whole = client.get(url("summary"))
    assert whole.status_code == 200
    found = RecordingSummary.model_validate_json(whole.content)
    assert (found.source, found.vm, found.modes["uffd"].count) == ("kernel totals", None, COUNT)
    part = client.get(url("summary"), params={"vm": VM, "from_ns": START_NS + S, "to_ns": START_NS + 2 * S}).json()
    assert (part["source"], part["vm"], part["window_ns"]) == ("records", VM, S)
    assert 0 < part["modes"]["uffd"]["count"] < COUNT
    assert client.get(url("summary")).content == whole.content


@pytest.mark.parametrize("what", ["summary", "faults"])
@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("vm=nobody", "vm"),
        ("from_ns=5&to_ns=5", "to_ns"),
        ("from_ns=-1", "from_ns"),
        ("to_ns=99999999999999999999", "to_ns"),
        ("from_ns=soon", "from_ns"),
    ],
)
def test_a_wrong_part_is_422_with_its_name(client: TestClient, what: str, query: str, name: str) -> None:
    answer = client.get(f"{url(what)}?{query}")
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (422, name)


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("format=xml", "format"),
        ("mode=kernel", "0"),
        ("vcpu=-2", "0"),
        ("limit=0", "limit"),
        ("offset=-1", "offset"),
        ("min_latency_ns=9&max_latency_ns=8", "max_latency_ns"),
    ],
)
def test_a_wrong_filter_is_422(client: TestClient, query: str, name: str) -> None:
    answer = client.get(f"{url('faults')}?{query}")
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (422, name)


@pytest.mark.parametrize("what", ["summary", "faults"])
def test_an_unknown_recording_is_404_and_one_without_a_file_409(client: TestClient, directory: Path, what: str) -> None:
    for name in ("nobody", "..%2Fsecret", "a" * 64):
        assert client.get(url(what, name)).status_code == 404
    (directory / "broken.failed").write_text(json.dumps({"id": "broken", "state": "failed", "note": "disk full"}))
    answer = client.get(url(what, "broken"))
    assert answer.status_code == 409
    assert answer.json()["error"]["hint"]


@pytest.mark.parametrize("what", ["summary", "faults", "migrations/0/report"])
def test_a_file_that_is_no_recording_is_409_and_says_so(client: TestClient, directory: Path, what: str) -> None:
    (directory / f"{ID}.parquet").write_bytes(b"PAR1 and nothing else")
    answer = client.get(url(what))
    assert answer.status_code == 409, answer.text
    assert "recording" in answer.json()["error"]["message"]


@pytest.mark.parametrize("format", list(FORMATS))
def test_every_format_has_its_type_its_name_and_an_etag(client: TestClient, format: str) -> None:
    asked = {"format": format, "vcpu": [0, 1], "mode": "uffd"}
    answer = client.get(url("faults"), params=asked)
    assert answer.status_code == 200
    assert answer.headers["content-type"].partition(";")[0] == FORMATS[format].media_type.partition(";")[0]
    name = f'attachment; filename="exitscope-{ID}.{FORMATS[format].suffix}"'
    assert answer.headers["content-disposition"] == name
    etag = answer.headers["etag"]
    assert etag.startswith('"')
    for given in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        again = client.get(url("faults"), params=asked, headers={"if-none-match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    other = client.get(url("faults"), params=asked | {"vcpu": [0]}, headers={"if-none-match": etag})
    assert other.status_code == 200
    assert other.headers["etag"] != etag


def test_the_etag_changes_with_the_file(client: TestClient, directory: Path) -> None:
    before = client.get(url("faults?limit=1")).headers["etag"]
    write_recording(directory / f"{ID}.parquet", synthetic_records(COUNT + 1))
    assert client.get(url("faults?limit=1")).headers["etag"] != before


def test_json_pages_and_csv_agree(client: TestClient) -> None:
    page = Faults.model_validate_json(client.get(url("faults"), params={"limit": 100, "offset": 50}).content)
    assert (len(page.faults), page.next_offset) == (100, 150)
    rows = list(csv.DictReader(io.StringIO(client.get(url("faults?format=csv&limit=100&offset=50")).text)))
    assert [int(row["begin_ns"]) for row in rows] == [fault.begin_ns for fault in page.faults]
    assert Faults.model_validate_json(client.get(url("faults?offset=99999")).content).faults == []


def test_a_recording_is_its_file_and_can_be_had_in_ranges(client: TestClient, directory: Path) -> None:
    file = (directory / f"{ID}.parquet").read_bytes()
    whole = client.get(url("faults?format=recording"))
    assert (whole.content, whole.headers["accept-ranges"]) == (file, "bytes")
    assert pq.read_metadata(io.BytesIO(whole.content)).num_rows == COUNT
    for asked, expected in (
        ("bytes=10-19", file[10:20]),
        ("bytes=-7", file[-7:]),
        (f"bytes={len(file) - 3}-", file[-3:]),
    ):
        part = client.get(url("faults?format=recording"), headers={"range": asked})
        assert (part.status_code, part.content) == (206, expected)
        assert part.headers["etag"] == whole.headers["etag"]
    stale = client.get(url("faults?format=recording"), headers={"range": "bytes=0-1", "if-range": '"old"'})
    assert (stale.status_code, stale.content) == (200, file)


@pytest.mark.parametrize("asked", ["bytes=99999999-", "bytes=-0"])
def test_a_range_beyond_the_file_is_416_in_the_one_shape(client: TestClient, directory: Path, asked: str) -> None:
    answer = client.get(url("faults?format=recording"), headers={"range": asked})
    assert (answer.status_code, answer.json()["error"]["parameter"]) == (416, "range")
    assert answer.headers["content-range"] == f"bytes */{(directory / f'{ID}.parquet').stat().st_size}"


@pytest.mark.parametrize("asked", ["bytes=a-b", "lines=1-2", "bytes=5-1", "bytes=1-2,,", "bytes=" + "1-2," * 99, ""])
def test_a_range_that_is_none_is_ignored(client: TestClient, asked: str) -> None:
    assert client.get(url("faults?format=recording"), headers={"range": asked}).status_code == 200


def test_every_export_gives_its_place_back(client: TestClient) -> None:
    for _ in range(3 * MAX_EXPORTS):
        for format in FORMATS:
            with client.stream("GET", url(f"faults?format={format}")) as answer:
                next(answer.iter_bytes())
    exports: Any = client.app.state.queries.exports  # type: ignore[attr-defined]
    assert exports.borrowed_tokens == 0


def test_the_description_names_every_answer(client: TestClient) -> None:
    described = client.get("/openapi.json").json()["paths"]["/api/v1/recordings/{id}/faults"]["get"]
    assert {"200", "206", "304", "404", "409", "416", "422", "429"} <= set(described["responses"])
    types = {one.media_type.partition(";")[0] for one in FORMATS.values()}
    assert types == set(described["responses"]["200"]["content"])
    assert all(parameter.get("description") for parameter in described["parameters"])
