"""One table of settings: flags, environment and help agree."""

import click
import pytest
from click.testing import CliRunner

from exitscope.cli import main
from exitscope.settings import COLLECTOR, SERVER, SETTINGS, as_arguments, default_recordings, nanoseconds
from exitscope_probes.settings import Settings


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


def test_the_collector_takes_every_setting_that_we_hand_it() -> None:
    assert set(COLLECTOR) <= set(Settings.__dataclass_fields__)


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
