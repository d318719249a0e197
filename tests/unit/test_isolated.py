"""Nothing that lies in the current directory runs: it may be another user's, and exitscope root's."""

import site
import sys
from pathlib import Path

import pytest

from exitscope.__main__ import main
from exitscope_probes import isolated
from exitscope_probes.isolated import python
from tests.traps import ENTRIES, Trap, trap

from .migration_recordings import destination, migrated_meta, migrated_records
from .recordings import write_recording


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["doctor", "--json"],
        ["guest", "--help"],
        ["collect", "--socket", "/proc/none/sock"],
        ["serve", "--source", "/nonexistent"],
        ["summary", "RECORDING"],
        ["export", "RECORDING", "--limit", "1"],
        ["compare", "RECORDING", "RECORDING"],
        ["migration", "RECORDING"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_no_command_runs_what_lies_in_the_current_directory(entry: str, arguments: list[str], tmp_path: Path) -> None:
    recording = tmp_path / "recording.parquet"
    records = migrated_records(500)
    write_recording(recording, records, meta=migrated_meta(records, destination(records)))
    with trap(tmp_path, entry) as here:
        status, said = here.run(*(str(recording) if one == "RECORDING" else one for one in arguments))
    assert (status in {0, 1}, "Traceback" in said) == (True, False), said


def test_the_probes_alone_run_nothing_of_it_either(tmp_path: Path) -> None:
    with trap(tmp_path, "script") as here:
        (here.directory / "exitscope_probes.py").unlink()
        for module, *arguments in (["exitscope_probes", "--version"], ["exitscope_probes.guest", "--help"]):
            here.entry = [sys.executable, "-m", module]
            assert here.run(*arguments)[0] == 0


def test_what_children_run_is_not_led_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Trap(tmp_path, "script")
    for name in ("PYTHONPATH", "PYTHONHOME", "PYTHONUSERBASE"):
        monkeypatch.setenv(name, str(here.directory))
    here.entry = python("exitscope_probes")
    assert (here.run("--version")[0], here.ran) == (0, [])


def test_packages_of_a_user_stay_in_reach_where_ours_is_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    assert python("it", "a")[1:] == ["-I", "-m", "it", "a"]
    monkeypatch.setattr(site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(site, "getusersitepackages", lambda: str(Path(isolated.__file__).parents[1]))
    assert python("it", "a")[1:] == ["-P", "-E", "-m", "it", "a"]


def test_missing_packages_of_the_server_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "click" or name == "exitscope.cli"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "click", None)
    with pytest.raises(SystemExit) as end:
        main()
    assert str(end.value).startswith("exitscope: the Python package click is missing: `")
    assert "'exitscope[server]'` installs" in str(end.value)
    assert "\n" not in str(end.value)
