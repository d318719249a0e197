"""One table of settings: flags, environment and help agree."""

import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from exitscope.cli import main
from exitscope.settings import COLLECTOR, SERVER, SETTINGS, as_arguments, default_recordings, nanoseconds
from exitscope_probes.commandline import main as probes_main
from exitscope_probes.settings import OPTIONS, Settings, from_environment


@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_has_a_variable_and_a_help_text(name: str) -> None:
    option = SETTINGS[name]
    assert option.envvar == f"EXITSCOPE_{name.upper()}"
    assert option.help
    assert option.opts == [f"--{name.replace('_', '-')}"]


@pytest.mark.parametrize("command", ["serve", "collect", "run", "demo"])
def test_help_names_every_setting_and_its_variable(command: str) -> None:
    text = CliRunner().invoke(main, [command, "--help"]).output
    for parameter in main.commands[command].params:
        if parameter.name in SETTINGS:
            assert parameter.opts[0] in text
            assert str(parameter.envvar) in text.replace("\n", "").replace(" ", "")


def test_the_table_has_every_setting_of_the_collector() -> None:
    assert set(COLLECTOR) == set(OPTIONS) == set(Settings.__dataclass_fields__)


PROBES = ["-m", "exitscope_probes", "collect"]
PRODUCT = ["-m", "exitscope", "collect"]


@pytest.mark.parametrize("command", [PROBES, PRODUCT], ids=["probes", "product"])
@pytest.mark.parametrize(
    ("flag", "text", "wanted"),
    [
        ("--ring-bytes", "5000", "it must be a power of two, at least 4096"),
        ("--ring-bytes", "many", "it must be a number"),
        ("--max-vcpus", "0", "it must be at least 1"),
        ("--max-vms", "-1", "it must be at least 1"),
        ("--record-seconds", "nan", "it must be a number of seconds, 0 or more"),
        ("--strategy", "magic", "fentry"),
        ("--no-qmp", "perhaps", ""),
    ],
)
def test_both_halves_refuse_the_same_by_flag_and_by_variable(
    command: list[str], flag: str, text: str, wanted: str
) -> None:
    variable = "EXITSCOPE_" + flag[2:].replace("-", "_").upper()
    for arguments, environment in ([flag, text], {}), ([], {variable: text}):
        if arguments and flag == "--no-qmp":
            continue
        ended = subprocess.run(
            [sys.executable, *command, *arguments], env=os.environ | environment, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 2, ended.stderr
        assert wanted in ended.stderr and "Traceback" not in ended.stderr
        assert variable in ended.stderr or flag in ended.stderr


def test_the_environment_of_a_collector() -> None:
    given = from_environment(
        {"EXITSCOPE_SOCKET": "/x", "EXITSCOPE_QMP": "/a:/b c", "EXITSCOPE_NO_QMP": "on", "EXITSCOPE_MAX_VMS": "7",
         "EXITSCOPE_GROUP": "", "EXITSCOPE_PORT": "1"}
    )  # fmt: skip
    assert given == {"socket": "/x", "qmp": ("/a", "/b c"), "no_qmp": True, "max_vms": 7}


def test_a_flag_of_the_collector_beats_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    def collect(settings: Settings) -> int:
        seen.append(settings)
        return 0

    monkeypatch.setattr("exitscope_probes.commandline.collect", collect)
    monkeypatch.setenv("EXITSCOPE_SOCKET", "/from-the-environment")
    monkeypatch.setenv("EXITSCOPE_RING_BYTES", "8192")
    assert probes_main(["collect", "--ring-bytes", "16384", "--qmp", "/a", "--qmp", "/b"]) == 0
    assert (seen[0].socket, seen[0].ring_bytes, seen[0].qmp) == ("/from-the-environment", 16384, ["/a", "/b"])


def test_a_child_process_gets_the_settings_that_were_given() -> None:
    given = {"host": "127.0.0.1", "port": 1, "allow_host": ("a", "b"), "user": None}
    assert as_arguments(given, SERVER) == [
        "--host", "127.0.0.1", "--port", "1", "--allow-host", "a", "--allow-host", "b"]  # fmt: skip


def test_a_child_process_gets_monitors_and_switches() -> None:
    assert as_arguments({"qmp": ("/a", "/b c"), "no_qmp": True}, COLLECTOR) == [
        "--qmp", "/a", "--qmp", "/b c", "--no-qmp"]  # fmt: skip
    assert as_arguments({"qmp": (), "no_qmp": False}, COLLECTOR) == []
    options = CliRunner().invoke(main, ["collect", "--help"]).output
    assert "--qmp" in options and "--no-qmp" in options


def test_the_environment_sets_what_a_flag_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr("exitscope.serve.serve", lambda **settings: seen.update(settings))
    CliRunner().invoke(main, ["serve"], env={"EXITSCOPE_PORT": "1234", "EXITSCOPE_SOCKET": "/x"})
    assert (seen["port"], seen["socket_path"]) == (1234, "/x")
    CliRunner().invoke(main, ["serve", "--port", "99"], env={"EXITSCOPE_PORT": "1234"})
    assert seen["port"] == 99


def test_nothing_is_an_option_outside_the_table() -> None:
    for name in ("serve", "collect", "run", "demo"):
        options = [p for p in main.commands[name].params if isinstance(p, click.Option)]
        assert {option.name for option in options} <= SETTINGS.keys()


def test_lengths_of_time() -> None:
    assert [nanoseconds(text) for text in ("0", "10", "10s", "90m", "12h", "30d")] == [
        seconds * 1_000_000_000 for seconds in (0, 10, 10, 5400, 43_200, 2_592_000)
    ]
    for text in ("", "d", "1.5h", "-1s", "10w", "1e9", "9" * 12):
        with pytest.raises(ValueError, match=""):
            nanoseconds(text)
    result = CliRunner().invoke(main, ["serve", "--recordings-max-age", "soon"])
    assert result.exit_code == 2 and "no length of time" in result.output


def test_where_recordings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/exitscope:/var/lib/other")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_recordings() == "/var/lib/exitscope/recordings"
    monkeypatch.delenv("STATE_DIRECTORY")
    assert default_recordings() == "/state/exitscope/recordings"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/me")
    assert default_recordings() == "/home/me/.local/state/exitscope/recordings"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_recordings() == "/var/lib/exitscope/recordings"
