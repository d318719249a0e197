"""What doctor says, with each thing missing in turn."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from exitscope_probes import doctor
from exitscope_probes.doctor import Check
from exitscope_probes.errors import ProbeError
from exitscope_probes.plan import HookStatus
from exitscope_probes.tracefs import TracefsError

GOOD = Check("thing", "ok", "there", needed=True)
BAD = Check("thing", "missing", "no thing", "get one", needed=True)
ATTACHED = HookStatus("vcpu_run", "vCPU run", "attached", "tracepoint:a", (), "nothing at all")
ABSENT = HookStatus(
    "resolve", "resolve", "missing", None, (("fentry:u", "locked"), ("tracepoint:v", "none such")), "no fills"
)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the checks and the plan find."""

    def make(needed: Check = GOOD, hooks: tuple[HookStatus, ...] = (ATTACHED,), error: Exception | None = None) -> None:
        def survey() -> tuple[HookStatus, ...]:
            if error:
                raise error
            return hooks

        monkeypatch.setattr(doctor, "_NEEDED", (lambda: GOOD, lambda: needed))
        monkeypatch.setattr(doctor, "survey", survey)

    return make


def test_a_good_host_is_usable(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host()
    assert doctor.usable() is None
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "✓ vCPU run  tracepoint:a" in out and out.rstrip().endswith("live tracing works here")


def test_what_is_missing_is_one_sentence_with_what_to_do(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(needed=BAD)
    assert doctor.usable() == "no thing: get one"
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "✗ thing" in out and "→ get one" in out and "no live tracing here: no thing: get one" in out


def test_a_missing_hook_shows_why_and_what_is_lost_but_other_hooks_still_work(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(hooks=(ATTACHED, ABSENT))
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "✗ resolve" in out and "fentry:u: locked; tracepoint:v: none such" in out and "no fills" in out


def test_lines_up(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host(hooks=(ATTACHED, ABSENT))
    doctor.main()
    lines = capsys.readouterr().out.splitlines()
    starts = {line.index(word) for line in lines for word in ("tracepoint:a", "fentry:u", "→ without") if word in line}
    assert len(starts) == 1


@pytest.mark.parametrize("error", [ProbeError("no BTF", "get it"), OSError(2, "No such file", "/sys/x")])
def test_a_plan_that_cannot_be_made_is_no_traceback(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    host(needed=BAD, error=error)
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "no BTF: get it" in out or "No such file: /sys/x" in out


def test_json_says_the_same(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host(needed=BAD, hooks=(ATTACHED, ABSENT))
    assert doctor.main(as_json=True) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["usable"] is False and found["reason"] == "no thing: get one"
    assert [hook["status"] for hook in found["hooks"]] == ["attached", "missing"]
    assert {"name", "state", "detail", "remedy", "needed"} == set(found["checks"][0])


def test_this_host_gets_an_answer_whatever_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    status = doctor.main(as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert status == (0 if found["usable"] else 1)
    for check in found["checks"]:
        assert check["detail"] and (check["state"] == "ok" or check["remedy"]), check


def status_file(capabilities: int) -> Callable[[str], str]:
    return lambda path: f"Name:\tx\nCapEff:\t{capabilities:016x}\n" if path.endswith("status") else ""


@pytest.mark.parametrize(
    ("capabilities", "state"),
    [
        (0, "missing"),
        (1 << 39, "missing"),
        (1 << 38 | 1 << 39, "ok"),
        (1 << 21, "ok"),
        (~(1 << 21 | 1 << 39) & (1 << 41) - 1, "missing"),
    ],
)
def test_privileges(monkeypatch: pytest.MonkeyPatch, capabilities: int, state: str) -> None:
    monkeypatch.setattr(doctor, "_read", status_file(capabilities))
    assert doctor._privileges().state == state


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("", "ok"),
        ("[none] integrity confidentiality", "ok"),
        ("none [integrity] confidentiality", "ok"),
        ("none integrity [confidentiality]", "missing"),
    ],
)
def test_lockdown(monkeypatch: pytest.MonkeyPatch, text: str, state: str) -> None:
    monkeypatch.setattr(doctor, "_read", lambda _path: text)
    assert doctor._lockdown().state == state


def test_absent_files_are_missing_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        return None

    def no_tracefs() -> None:
        raise TracefsError("no tracefs", "mount it")

    monkeypatch.setattr(doctor, "_BTF", tmp_path / "btf")
    monkeypatch.setattr(doctor, "tracefs", no_tracefs)
    monkeypatch.setattr(doctor, "_read", lambda _path: "")
    monkeypatch.setattr("importlib.util.find_spec", nothing)
    for look in (doctor._btf, doctor._tracefs, doctor._bcc, doctor._userfaultfd):
        check = look()
        assert check.state == "missing" and check.detail and check.remedy, check
