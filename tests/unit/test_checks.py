"""What a host and a process need for live tracing, with each thing missing in turn."""

from pathlib import Path
from typing import Any

import pytest

from exitscope_probes import checks
from exitscope_probes.rights import CAPABILITIES
from exitscope_probes.symbols import hidden
from exitscope_probes.tracefs import TracefsError

ENOUGH = frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_DAC_READ_SEARCH", "CAP_SYS_PTRACE", "CAP_SYSLOG"})


@pytest.mark.parametrize(
    ("held", "missing"),
    [
        (ENOUGH, None),
        (frozenset(CAPABILITIES), None),
        (ENOUGH - {"CAP_BPF", "CAP_PERFMON"} | {"CAP_SYS_ADMIN"}, None),
        (ENOUGH - {"CAP_DAC_READ_SEARCH"} | {"CAP_DAC_OVERRIDE"}, None),
        (frozenset(), "CAP_BPF"),
        (ENOUGH - {"CAP_BPF"}, "CAP_BPF"),
        (ENOUGH - {"CAP_PERFMON"}, "CAP_PERFMON"),
        (ENOUGH - {"CAP_SYS_PTRACE"}, "CAP_SYS_PTRACE"),
        (ENOUGH - {"CAP_DAC_READ_SEARCH"}, "CAP_DAC_READ_SEARCH"),
    ],
)
def test_privileges(monkeypatch: pytest.MonkeyPatch, held: frozenset[str], missing: str | None) -> None:
    monkeypatch.setattr(checks, "held", lambda _proc: held)
    monkeypatch.setattr(checks, "_module_types_are_hidden", lambda: False)
    check = checks._privileges()
    assert check.state == ("missing" if missing else "ok")
    assert (missing or "") in check.remedy


def test_where_kvm_is_a_module_its_types_need_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_module_types_are_hidden", lambda: True)
    monkeypatch.setattr(checks, "held", lambda _proc: ENOUGH)
    assert "CAP_SYS_ADMIN" in checks._privileges().remedy


@pytest.mark.parametrize("kind", ["user", "pid", "time"])
def test_a_namespace_of_its_own_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(checks, "is_initial", lambda asked: asked != kind)
    check = checks._namespaces()
    assert check.state == "missing" and check.needed
    assert kind.lower() in check.detail.lower() and check.remedy


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n", False),
        ("0000000000000000 A fixed_percpu_data\n0000000000000000 T _text\n", True),
        ("", True),
    ],
)
def test_hidden_addresses(tmp_path: Path, lines: str, expected: bool) -> None:
    (tmp_path / "kallsyms").write_text(lines)
    assert hidden(tmp_path / "kallsyms") is expected


@pytest.mark.parametrize(("restrict", "remedy"), [("2", "kernel.kptr_restrict=1"), ("1", "CAP_SYSLOG")])
def test_who_hides_the_addresses(monkeypatch: pytest.MonkeyPatch, restrict: str, remedy: str) -> None:
    monkeypatch.setattr(checks, "hidden", lambda: True)
    monkeypatch.setattr(checks, "_read", lambda _path: restrict + "\n")
    check = checks._addresses()
    assert check.state == "missing" and check.needed and remedy in check.remedy


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
    monkeypatch.setattr(checks, "_read", lambda _path: text)
    assert checks._lockdown().state == state


def test_absent_files_are_missing_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def nothing(*_: Any, **__: Any) -> None:
        return None

    def no_tracefs() -> None:
        raise TracefsError("no tracefs", "mount it")

    monkeypatch.setattr(checks, "_BTF", tmp_path / "btf")
    monkeypatch.setattr(checks, "tracefs", no_tracefs)
    monkeypatch.setattr(checks, "_read", lambda _path: "")
    monkeypatch.setattr("importlib.util.find_spec", nothing)
    for look in (checks._btf, checks._tracefs, checks._bcc, checks._userfaultfd):
        check = look()
        assert check.state == "missing" and check.detail and check.remedy, check


@pytest.mark.parametrize(("scope", "state"), [("", "ok"), ("2", "ok"), ("3", "missing")])
def test_who_hides_what_threads_are_doing(monkeypatch: pytest.MonkeyPatch, scope: str, state: str) -> None:
    monkeypatch.setattr(checks, "_read", lambda _path: scope + "\n")
    assert checks._already_running().state == state
