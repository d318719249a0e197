"""What doctor says, with each thing missing in turn."""

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

from exitscope_probes import checks, doctor
from exitscope_probes.checks import Check
from exitscope_probes.errors import ProbeError
from exitscope_probes.plan import HookStatus

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

        monkeypatch.setattr(checks, "_NEEDED", (lambda: GOOD, lambda: needed))
        monkeypatch.setattr(doctor, "survey", survey)

    return make


def test_a_good_host_is_usable(host: Callable[..., None], capsys: pytest.CaptureFixture[str]) -> None:
    host()
    assert checks.usable() is None
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "✓ vCPU run  tracepoint:a" in out and out.rstrip().endswith("live tracing works here")


def test_what_is_missing_is_one_sentence_with_what_to_do(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(needed=BAD)
    assert checks.usable() == "no thing: get one"
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "✗ thing" in out and "→ get one" in out and "no live tracing here: no thing: get one" in out


def test_without_an_essential_hook_nothing_is_traced_as_the_numbers_would_be_wrong(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(hooks=(ATTACHED, ABSENT))
    assert doctor.main() == 1
    out = capsys.readouterr().out
    assert "✗ resolve" in out and "fentry:u: locked; tracepoint:v: none such" in out and "no fills" in out
    assert "no live tracing here: what is counted would be wrong without the hook resolve" in out


def test_a_hook_that_another_makes_up_for_is_a_note(
    host: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    host(hooks=(ATTACHED, replace(ABSENT, essential=False)))
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "· resolve" in out and "no fills" in out and out.rstrip().endswith("live tracing works here")


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
