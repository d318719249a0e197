"""What root starts for itself (collector, server, guests) runs nothing of the current directory."""

import json
from pathlib import Path

import pytest

from tests.product import products
from tests.traps import ENTRIES, trap

pytestmark = [pytest.mark.needs("root", "kvm", "bpf", "uffd"), pytest.mark.timeout(300)]


@pytest.mark.parametrize("entry", ENTRIES)
def test_record_guest_and_bench(entry: str, tmp_path: Path) -> None:
    with trap(tmp_path, entry) as here:
        status, said = here.run("guest", "--vcpus", 1, "--pages", 300, "--mode", "exit")
        assert (status, json.loads(said)["faults"]) == (0, 300)
        command = [*here.entry, "guest", "--vcpus", 1, "--pages", 300, "--mode", "exit"]
        status, said = here.run("record", "--socket", "none.sock", "-o", "it.parquet", "--", *command)
        assert (status, "wrote it.parquet" in said) == (0, True), said
        options = ("--socket", "none.sock", "--vcpus", 1, "--pages", 300, "--repeats", 1, "-o", "made")
        status, said = here.run("bench", *options)
        assert status == 0, said


@pytest.mark.parametrize("command", ["run", "demo"])
def test_run_and_demo(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trap(tmp_path, "script") as here, products() as start:
        monkeypatch.chdir(here.directory)
        product = start(command)
        wanted = 2 if command == "demo" else 0
        product.until("api/v1/health", lambda health: health["source"]["kind"] == "live", "a collector")
        product.until("api/v1/vms", lambda found: len(found["vms"]) >= wanted, "the demo's guests")
        assert product.stop() == 0
