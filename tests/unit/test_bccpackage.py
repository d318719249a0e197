"""A missing bcc has a remedy that can work for the Python at hand."""

import re
import sys
from pathlib import Path

import pytest

from exitscope_probes.bccpackage import remedy


@pytest.mark.parametrize(
    ("base", "prefix", "installed", "told"),
    [
        ("/usr", "/usr", False, "`apt-get install python3-bpfcc`"),
        ("/usr", "/opt/x/.venv", False, "`apt-get install python3-bpfcc` .* a venv made with --system-site-packages"),
        ("/usr", "/opt/x/.venv", True, "bcc is installed, but /opt/x/.venv does not see .* --system-site-packages"),
        ("/u/.pyenv/3.12", "/u/.pyenv/3.12", False, "not the distribution's .*apt-get.*`/usr/bin/python3 -m venv "),
        ("/u/.pyenv/3.12", "/u/x/.venv", True, "not the distribution's .* bcc is built: `/usr/bin/python3"),
    ],
)  # fmt: skip
def test_the_remedy_can_work(
    base: str, prefix: str, installed: bool, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "base_prefix", base)
    monkeypatch.setattr(sys, "prefix", prefix)
    if installed:
        (tmp_path / "python3/dist-packages/bcc").mkdir(parents=True)
    assert re.search(told, remedy(tmp_path))
