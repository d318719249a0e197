"""`exitscope compare` from the command line: what it prints, writes and refuses."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from exitscope.cli import main
from exitscope.compare.models import Comparison
from exitscope_probes.records import MODE_EXIT
from tests.unit.recordings import synthetic_records, write_recording


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recordings")
    write_recording(directory / "slow.parquet", synthetic_records(3000), name="slow")
    fast = synthetic_records(3000, mode=MODE_EXIT, serve_ns=90_000)
    write_recording(directory / "fast.parquet", fast, name="fast")
    write_recording(directory / "other.parquet", fast, name="other", kernel="6.12.0")
    return directory


def run(shelf: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["compare", "--recordings", str(shelf), *options])


def test_by_id_and_by_file(shelf: Path) -> None:
    by_id = run(shelf, "slow", "fast")
    assert by_id.exit_code == 0, by_id.output
    assert by_id.stdout.startswith("B (exit) finishes faults ")
    assert run(shelf, str(shelf / "slow.parquet"), str(shelf / "fast.parquet")).stdout == by_id.stdout


def test_json(shelf: Path) -> None:
    found = Comparison.model_validate(json.loads(run(shelf, "slow", "fast", "--json").stdout))
    assert found.verdict.outcome == "b_faster"
    assert found.drift == 0.15
    assert json.loads(run(shelf, "slow", "fast", "--json", "--drift", "5").stdout)["drift"] == 0.05


def test_a_refusal_is_no_failure_and_force_is_marked(shelf: Path) -> None:
    refused, forced = run(shelf, "slow", "other"), run(shelf, "slow", "other", "--force")
    assert (refused.exit_code, forced.exit_code) == (0, 0)
    assert refused.stdout.startswith("No winner is called, because the conditions make it unfair (kernel)")
    assert forced.stdout.startswith("Unfair, and forced (kernel): B (exit) finishes")


def test_the_report_is_one_file(shelf: Path, tmp_path: Path) -> None:
    assert run(shelf, "slow", "fast", "--html", str(tmp_path / "report.html")).exit_code == 0
    assert "Two recordings compared" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["slow", "nobody"], "nobody"),
        (["slow", __file__], "is not a recording"),
        (["slow", "fast", "--vm-a", "x"], "slow has no VM x: its VMs are 4001-77"),
        (["slow", "fast", "--html", "/nonexistent/report.html"], "cannot write /nonexistent/report.html"),
    ],
)
def test_mistakes_are_one_line(shelf: Path, options: list[str], line: str) -> None:
    done = run(shelf, *options)
    assert (done.exit_code, done.stdout) == (1, "")
    assert line in done.stderr and len(done.stderr.splitlines()) == 1


def test_wrong_usage_is_2(shelf: Path) -> None:
    assert run(shelf, "slow").exit_code == 2
    assert run(shelf, "slow", "fast", "--drift", "101").exit_code == 2
