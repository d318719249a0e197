"""QEMU's machine protocol: what is asked, what is understood, and what a hostile peer may not do."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from exitscope.migrations import status
from exitscope_probes.migrateinfo import NOTHING, UNDER_WAY, told
from exitscope_probes.qmp import MAX_BYTES, MAX_MESSAGES, OFTEN, QUERIES, QmpError, Session

RECORDED = json.loads((Path(__file__).parent / "data/qmp/qemu-7.2.json").read_text())
GREETING: dict[str, Any] = {"QMP": {"version": {"qemu": {"major": 7}, "package": ""}, "capabilities": ["oob"]}}
NEGOTIATED = (GREETING, {"return": {}, "id": 0})
MS = 1_000_000


def answers(phase: str, side: str) -> dict[str, Any]:
    """What QEMU 7.2 really said."""
    return {
        **RECORDED["phases"][phase][side],
        "query-migrate-capabilities": RECORDED["capabilities"],
        "query-migrate-parameters": RECORDED["parameters"],
    }


def lines(*messages: Any, pretty: bool = False) -> bytes:
    return b"".join(json.dumps(message, indent=4 if pretty else None).encode() + b"\r\n" for message in messages)


def conversation(returned: dict[str, Any], pretty: bool = False) -> bytes:
    """All that QEMU sends to one who asks everything."""
    event = {"event": "RTC_CHANGE", "data": {"offset": 1}, "timestamp": {"seconds": 1, "microseconds": 2}}
    replies = [{"return": {}, "id": 0}, *({"id": 1 + i, "return": returned[name]} for i, name in enumerate(QUERIES))]
    return lines(GREETING, event, *replies, event, pretty=pretty)


def test_a_conversation_asks_only_what_changes_nothing() -> None:
    session = Session()
    sent = session.receive(lines(GREETING))
    commands = [json.loads(line) for line in sent.splitlines()]
    assert [command["execute"] for command in commands] == ["qmp_capabilities", *QUERIES]
    assert all(name.startswith("query-") for name in QUERIES)
    assert all(command.keys() == {"execute", "id"} for command in commands)
    assert not session.done
    few = Session(OFTEN)
    assert len(few.receive(lines(GREETING)).splitlines()) == 3
    few.receive(lines(*({"return": {}, "id": i} for i in range(3))))
    assert few.done and few.answers.keys() == set(OFTEN)


@pytest.mark.parametrize("pretty", [False, True], ids=["qmp", "qmp-pretty"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_answers_come_in_pieces_with_events_between(pretty: bool, piece: int) -> None:
    data = conversation(answers("postcopy1", "source"), pretty)
    session, sent = Session(), b""
    for at in range(0, len(data), piece):
        sent += session.receive(data[at : at + piece])
    assert session.done and sent.count(b"\n") == 1 + len(QUERIES)
    assert session.answers == answers("postcopy1", "source")


def test_a_query_that_an_old_qemu_does_not_know() -> None:
    session = Session()
    session.receive(lines(*NEGOTIATED))
    for i, name in enumerate(QUERIES):
        error = {"error": {"class": "CommandNotFound", "desc": f"The command {name} has not been found"}, "id": 1 + i}
        session.receive(lines(error if name == "query-migrate-parameters" else {"return": {}, "id": 1 + i}))
    assert session.done and session.answers["query-migrate-parameters"] is None
    assert told(session.answers) == NOTHING


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no JSON: 'HTTP"),
        (b"\xff\xfe\x00\n", "no JSON"),
        (b"7\n", "no JSON object"),
        (lines({"QMP": []}), "no QMP greeting"),
        (lines({"event": "RESET"}), "no QMP greeting"),
        (lines(GREETING, []), "no JSON object"),
        (lines(GREETING, {}), "neither an answer nor an event"),
        (lines(GREETING, {"error": "x", "id": 1}), "neither an answer"),
        (lines(GREETING, {"return": {}, "id": 1}), "answer to nothing"),
        (lines(GREETING, {"error": {}, "id": 0}), "answer to nothing"),
        (lines(*NEGOTIATED, *[{"return": {}, "id": 1}] * 2), "answer to nothing"),
        *(
            (lines(*NEGOTIATED, {"return": {}, "id": wrong}), "answer to nothing")
            for wrong in (0, -1, 5, True, 1.0, "1", [1])
        ),
        (lines(GREETING, *[{"event": "x"}] * MAX_MESSAGES), "more than 64 messages"),
        (b"[" * 100_000 + b"\n", "no JSON"),
        (b'{"QMP": ' * 10_000 + b"\n", "no JSON"),
        (b"9" * 10_000 + b"\n", "no JSON"),
        (b"{\n" + b'"x": 1,\n' * 10 + b"}\n", "no JSON"),
        (b" " * (MAX_BYTES + 1), "more than 256 KiB"),
        (lines(GREETING) + b"{\n" * MAX_BYTES, "more than 256 KiB"),
    ],
)
def test_what_is_no_qmp_is_an_error_that_says_so_shortly(data: bytes, complaint: str) -> None:
    with pytest.raises(QmpError, match=complaint) as caught:
        Session().receive(data)
    assert len(str(caught.value)) < 300 and str(caught.value).isprintable() and str(caught.value).isascii()


@settings(deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_garbage_never_crashes(pieces: list[bytes]) -> None:
    session = Session()
    try:
        for piece in pieces:
            session.receive(piece)
    except QmpError as error:
        assert str(error)
    assert not session.done


@settings(deadline=None)
@given(st.integers(0, 3000), st.binary(min_size=1, max_size=3))
def test_damaged_answers_never_crash(at: int, damage: bytes) -> None:
    data = bytearray(conversation(answers("completed", "destination")))
    data[at : at + len(damage)] = damage
    session = Session()
    try:
        session.receive(bytes(data))
    except QmpError:
        return
    assert told(session.answers).keys() == NOTHING.keys()


PHASES: dict[tuple[str, str], tuple[str | None, str, str | None]] = {
    ("before", "source"): (None, "running", None),
    ("before", "destination"): (None, "inmigrate", "destination"),
    ("begun", "source"): ("active", "running", "source"),
    ("begun", "destination"): ("active", "inmigrate", "destination"),
    ("precopy", "source"): ("active", "running", "source"),
    ("precopy", "destination"): ("active", "inmigrate", "destination"),
    ("postcopy1", "source"): ("postcopy-active", "finish-migrate", "source"),
    ("postcopy1", "destination"): ("postcopy-active", "running", "destination"),
    ("completed", "source"): ("completed", "postmigrate", "source"),
    ("completed", "destination"): ("completed", "paused", "destination"),
}


@pytest.mark.parametrize(("phase", "side"), PHASES)
def test_every_phase_as_qemu_told_it(phase: str, side: str) -> None:
    values = told(answers(phase, side))
    assert (values["status"], values["run_state"], values["role"]) == PHASES[phase, side]
    assert (values["status"] in UNDER_WAY) == (phase not in ("before", "completed"))
    assert values["capabilities"] == ["postcopy-blocktime", "postcopy-ram"]
    assert (values["remaining_bytes"] is not None) == (side == "source" and phase != "before")


def test_server_and_probes_agree_on_what_goes_on() -> None:
    # postcopy-paused may stay for days: no reason to look often.
    assert status.PHASES.keys() - {"postcopy-paused"} == UNDER_WAY
    assert not UNDER_WAY & status.STATES.keys()


def test_units_of_a_source() -> None:
    values = told(answers("postcopy2", "source"))
    ram = RECORDED["phases"]["postcopy2"]["source"]["query-migrate"]["ram"]
    assert values == NOTHING | {
        "status": "postcopy-active",
        "run_state": "finish-migrate",
        "role": "source",
        "capabilities": ["postcopy-blocktime", "postcopy-ram"],
        "total_bytes": 17_113_088,
        "remaining_bytes": 9_822_208,
        "transferred_bytes": 4_909_891,
        "page_bytes": 4096,
        "postcopy_requests": 46,
        "bytes_per_s": round(ram["mbps"] * 1e6 / 8),
        "pages_per_s": 520,
        "dirty_pages_per_s": 0,
        "max_postcopy_bytes_per_s": 2 << 20,
        "setup_ns": 1 * MS,
        "expected_downtime_ns": 300 * MS,
        "total_ns": 2816 * MS,
    }
    assert abs(values["bytes_per_s"] / (2 << 20) - 1) < 0.05, "it was limited to 2 MiB/s"
    assert told(answers("completed", "source"))["downtime_ns"] == 2 * MS


def test_units_of_a_destination() -> None:
    values = told(answers("completed", "destination"))
    assert values["blocktime_ns"] == 6497 * MS
    assert values["vcpu_blocktime_ns"] == [6397 * MS, 6497 * MS]
    assert values["total_bytes"] is None


@pytest.mark.parametrize(
    ("info", "run_state", "role"),
    [
        ({"status": "setup"}, "running", "source"),
        ({"status": "setup"}, "inmigrate", "destination"),
        ({"status": "failed", "error-desc": "x"}, "running", "source"),
        ({"status": "completed"}, "running", "destination"),
        ({"status": "none"}, "running", None),
        ({"status": "active", "ram": {}, "postcopy-vcpu-blocktime": [1]}, "running", "source"),
        ({"status": "setup", "socket-address": [{}]}, "running", "source"),
    ],
)
def test_roles(info: dict[str, Any], run_state: str, role: str | None) -> None:
    assert told({"query-migrate": info, "query-status": {"status": run_state}})["role"] == role


WRONG: tuple[Any, ...] = (None, True, -1, -0.5, 1e300, float("nan"), float("inf"), 10**400, "7", [], {}, [{}])


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_is_of_a_wrong_type_is_null(wrong: Any) -> None:
    ram = dict.fromkeys(RECORDED["phases"]["completed"]["source"]["query-migrate"]["ram"], wrong)
    times = ("total-time", "setup-time", "downtime", "expected-downtime", "postcopy-blocktime")
    info = dict.fromkeys(times, wrong) | {"ram": ram, "postcopy-vcpu-blocktime": [wrong, 3]}
    values = told({"query-migrate": info, "query-migrate-parameters": {"max-postcopy-bandwidth": wrong}})
    assert values == NOTHING | {"role": "source", "vcpu_blocktime_ns": [None, 3 * MS]}
    json.dumps(values, allow_nan=False)
    for name in QUERIES:
        assert told({name: wrong}) == NOTHING | (
            {"capabilities": []} if isinstance(wrong, list) and "cap" in name else {}
        )
    assert told({"query-migrate": {"status": wrong, "postcopy-vcpu-blocktime": wrong}})["role"] in (None, "destination")


def test_texts_are_short_and_printable() -> None:
    capabilities = [{"capability": "x" * 10_000, "state": True}, {"capability": 7, "state": True}] * 1000
    values = told({"query-migrate": {"status": "\x1b[31m" + "a" * 10_000}, "query-migrate-capabilities": capabilities})
    assert len(values["status"]) == 64 and values["status"].isprintable()
    assert len(values["capabilities"]) == 64 and {len(name) for name in values["capabilities"]} == {64}
    vcpus = told({"query-migrate": {"postcopy-vcpu-blocktime": [1] * 100_000}})["vcpu_blocktime_ns"]
    assert len(vcpus) == 4096
