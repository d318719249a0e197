"""What the services are started with: settings that exist, by one file, and no restart where it cannot help."""

import re
from pathlib import Path

import pytest

from exitscope.settings import SETTINGS

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = {name: (DEPLOY / f"exitscope-{name}.service").read_text() for name in ("collector", "server")}


def value_of(unit: str, key: str) -> str:
    (value,) = re.findall(rf"^{key}=(.*)$", unit, re.MULTILINE)
    return str(value)


@pytest.mark.parametrize("name", UNITS)
def test_settings_come_from_the_file_and_no_flag_beats_them(name: str) -> None:
    assert value_of(UNITS[name], "EnvironmentFile") == "-/etc/default/exitscope"
    command = value_of(UNITS[name], "ExecStart")
    assert "--" not in command
    assert command.startswith("/opt/exitscope/.venv/bin/python -I -m ")


@pytest.mark.parametrize("name", UNITS)
def test_a_wrong_setting_is_not_tried_again(name: str) -> None:
    assert value_of(UNITS[name], "Restart") == "on-failure"
    assert value_of(UNITS[name], "RestartPreventExitStatus") == "2"


def test_the_file_of_settings_names_real_ones_with_their_defaults() -> None:
    by_variable = {str(option.envvar): option for option in SETTINGS.values()}
    found = re.findall(r"^#?(EXITSCOPE_\w+)=(.*)$", (DEPLOY / "exitscope.default").read_text(), re.MULTILINE)
    assert len(found) > 5
    for variable, text in found:
        option = by_variable[variable]
        assert text == ("0" if option.is_flag else str(option.default)), variable
