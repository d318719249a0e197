"""Random requests, right and wrong ones, to every endpoint: no 5xx, no answer that the OpenAPI page does not name."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from exitscope.app import create_app
from exitscope.recordings.library import Library, Limits

from .frames import Feeder
from .migration_recordings import destination
from .recordings import VM, synthetic_records, write_recording
from .test_hub import FeederSource

IDS = ("20260101-000000-aaaa", "20260101-000001-bbbb")
EXAMPLES = 40
KNOWN = {"id": IDS[0], "a": IDS[0], "b": IDS[1], "vm": VM, "number": 0}
"""What random text would never hit: with it, requests get past the first check."""

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
]
ENDPOINTS = [
    (method, path)
    for path, operations in create_app(FeederSource()).openapi()["paths"].items()
    for method in operations
]


class Served:
    """The app behind a real socket, with two recordings that come back when they are deleted."""

    def __init__(self, app: FastAPI, directory: Path) -> None:
        self.kept = {directory / f"{id}.parquet": b"" for id in IDS}
        for number, path in enumerate(self.kept):
            records = synthetic_records(300, seed=number)
            write_recording(path, records, id=path.stem, migrations=[destination(records)])
            self.kept[path] = path.read_bytes()
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", lifespan="on"))
        self.thread = threading.Thread(target=lambda: asyncio.run(self.server.serve()))

    def __enter__(self) -> "Served":
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.schema: Any = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()

    def restore(self) -> None:
        for path, data in self.kept.items():
            if not path.exists():
                path.write_bytes(data)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("fuzz")
    source = FeederSource()
    app = create_app(source, library=Library(directory, Limits(), None))
    with Served(app, directory) as served:
        feeder = Feeder()
        feeder.add_vm(1, 2, id=VM)
        for message in feeder.welcome():
            source.handle(message)
        yield served


@pytest.mark.parametrize("mode", list(GenerationMode), ids=["right", "wrong"])
@pytest.mark.parametrize(("method", "path"), ENDPOINTS, ids=[f"{method} {path}" for method, path in ENDPOINTS])
def test_every_answer_is_named(served: Served, method: str, path: str, mode: GenerationMode) -> None:
    operation = served.schema[path][method.upper()]
    some = st.sets(st.sampled_from(sorted(KNOWN)))

    @settings(
        max_examples=EXAMPLES, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode), known=st.just(set(KNOWN)) | some)
    def ask(case: Any, known: set[str]) -> None:
        served.restore()
        for name in known:
            for place in (case.path_parameters, case.query):
                if name in (place or {}):
                    place[name] = KNOWN[name]
        case.call_and_validate(checks=CHECKS, timeout=20)

    # Nothing can be wrong about a request without parameters.
    with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
        ask()
