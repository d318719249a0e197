"""What an operator must know of recordings: that none can be written; and nothing of a killed server is left behind."""

import os
import tempfile
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from exitscope.app import create_app
from exitscope.query.engine import Engine
from exitscope.recordings import library as library_module
from exitscope.recordings.library import Library, Limits
from exitscope.source import SocketSource

from .recording_processes import fake_collector, run, until


@pytest.mark.parametrize("auto_record", [True, False])
def test_a_folder_that_takes_no_file_is_told(
    tmp_path: Path, auto_record: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "_UPKEEP_S", 0.1)
    directory = tmp_path / "recordings"
    directory.write_text("a file in the way, which keeps root from writing, too")
    with fake_collector(tmp_path / "c.sock"):
        library = Library(directory, Limits(), str(tmp_path / "c.sock"))
        app = create_app(SocketSource(str(tmp_path / "c.sock")), (), library, auto_record=auto_record)
        with TestClient(app, base_url="http://127.0.0.1") as client:

            def alarms() -> list[str]:
                listed = client.get("/api/v1/alarms").json()["alarms"]
                return [one["message"] for one in listed if one["kind"] == "not_recorded" and one["ended_ns"] is None]

            until(lambda: client.get("/api/v1/vms").json()["vms"], "a VM")
            if not auto_record:
                assert client.get("/api/v1/health").json()["unrecorded"] is None and alarms() == []
                return
            (message,) = until(alarms, "the alarm")
            assert message.startswith("Migrations are not recorded: cannot write to") and str(directory) in message
            health = client.get("/api/v1/health").json()
            assert str(directory) in health["unrecorded"] and health["status"] == "degraded"
            metrics = client.get("/metrics").text
            assert 'exitscope_alarm{alarm="not_recorded",vm=""} 1.0' in metrics
            directory.unlink()
            until(lambda: not alarms(), "the alarm's end")
            assert client.get("/api/v1/health").json()["unrecorded"] is None


def test_a_killed_querys_scratch_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    code = "import time; from exitscope.query.engine import Engine; e = Engine('/tmp'); time.sleep(100)"
    process = run("-c", code)
    (left,) = until(lambda: list(tmp_path.glob("exitscope-query-*")), "its scratch")
    fds = Path(f"/proc/{process.pid}/fd")
    until(lambda: str(left) in [os.readlink(fd) for fd in fds.iterdir()], "its lock")
    with Engine(tmp_path) as engine:
        assert left.exists() and engine.scratch.exists(), "it is in use"
        process.kill()
        process.communicate()
        (tmp_path / "exitscope-query-link").symlink_to(tmp_path)
        with Engine(tmp_path) as second:
            assert not left.exists() and engine.scratch.exists() and second.scratch.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["exitscope-query-link"]
