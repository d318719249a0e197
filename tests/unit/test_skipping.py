"""What the test session itself promises: as root in CI a test that could run is not skipped."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.needs("root")
@pytest.mark.parametrize(("ci", "outcome"), [("true", "1 error"), ("", "1 skipped")])
def test_a_missing_package_is_a_failure_in_ci_and_a_skip_elsewhere(tmp_path: Path, ci: str, outcome: str) -> None:
    """Chromium is not in this PATH."""
    (tmp_path / "test_it.py").write_text("import pytest\n@pytest.mark.needs('chromium')\ndef test_it(): pass\n")
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*pytest_, "-o", "markers=needs", "--rootdir", str(tmp_path), str(tmp_path)],
        env=os.environ | {"CI": ci, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert outcome in done.stdout, done.stdout + done.stderr
    assert "absent capability: Chromium (no chromium in PATH)" in done.stdout or ci == ""
