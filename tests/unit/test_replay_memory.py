"""A replay holds one state: what a jump, or another recording, leaves behind is freed without a collector."""

import asyncio
import gc
import shutil
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from exitscope import switch as switch_module
from exitscope.aggregate import Aggregate
from exitscope.app import create_app
from exitscope.recordings import player as player_module
from exitscope.recordings.library import Library, Limits
from exitscope.recordings.player import Player
from exitscope.recordings.synthesis import Synthesis
from exitscope.switch import Switch

from .frames import S
from .recordings import START_NS, synthetic_records, write_recording
from .test_hub import FeederSource


@pytest.fixture
def without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> "weakref.WeakSet[Any]":
    """The states that have been made and are still there."""
    made: weakref.WeakSet[Any] = weakref.WeakSet()

    def remembered(kind: Any) -> Any:
        def make(*arguments: Any) -> Any:
            one = kind(*arguments)
            made.add(one)
            return one

        return make

    monkeypatch.setattr(switch_module, "Aggregate", remembered(Aggregate))
    monkeypatch.setattr(player_module, "Synthesis", remembered(Synthesis))
    return made


@pytest.mark.usefixtures("without_collector")
def test_jumps_and_replays_leave_no_state_behind(tmp_path: Path, alive: "weakref.WeakSet[Any]") -> None:
    file = write_recording(tmp_path / "a.parquet", synthetic_records(4000, seconds=100))
    most = 0

    async def jump_about() -> None:
        nonlocal most
        switch = Switch(FeederSource())
        for replay in range(3):
            player = await switch.play(file)
            await asyncio.wait_for(player.shown.wait(), 20)
            for jump in range(10):
                player.seek(START_NS + (replay * 7 + jump * 13) % 100 * S)
                await asyncio.sleep(0.02)
                most = max(most, len(alive))
        await switch.back()
        deadline = time.monotonic() + 20
        while len(alive) > 1:  # the thread that worked last lets go of it when it gets a CPU
            assert time.monotonic() < deadline, [gc.get_referrers(one) for one in alive if one is not switch.live]
            await asyncio.sleep(0.01)
        assert switch.live in alive

    asyncio.run(jump_about())
    assert most <= 4, "the source's, the one shown, and what a jump is making"


def test_replays_started_at_once_leave_one_playing(tmp_path: Path) -> None:
    file = write_recording(tmp_path / "a.parquet", synthetic_records(400, seconds=10))

    async def start() -> None:
        switch = Switch(FeederSource())
        await switch.play(file)
        await asyncio.gather(*(switch.play(file) for _ in range(5)))
        playing = [task for task in asyncio.all_tasks() if "Player.run" in repr(task.get_coro())]
        assert len(playing) == 1
        await switch.back()

    asyncio.run(start())


def test_a_copied_recordings_replay_is_paused_and_ended_by_the_copys_name(tmp_path: Path) -> None:
    write_recording(tmp_path / "first.parquet", synthetic_records(4000, seconds=100), id="first")
    shutil.copy(tmp_path / "first.parquet", tmp_path / "second.parquet")
    app = create_app(FeederSource(), (), Library(tmp_path, Limits(), None))
    with TestClient(app, base_url="http://127.0.0.1") as client:
        to_ns = client.post("/api/v1/replay", json={"id": "second", "at_ns": START_NS + 50 * S}).json()["to_ns"]
        player = app.state.switch.player
        shown = client.post("/api/v1/replay", json={"id": "second", "paused": True}).json()
        assert (shown["id"], shown["paused"]) == ("second", True) and START_NS + 50 * S <= shown["at_ns"] < to_ns
        assert app.state.switch.player is player, "the same replay goes on"
        assert client.delete("/api/v1/recordings/first").status_code == 204
        assert client.get("/api/v1/replay").json()["id"] == "second", "another recording was deleted"
        assert client.delete("/api/v1/recordings/second").status_code == 204
        assert client.get("/api/v1/replay").json()["id"] is None
        assert not isinstance(app.state.switch.player, Player)
