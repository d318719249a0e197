"""What deploy/ asks Prometheus for is what the server really says: every metric, label, value and unit."""

import importlib
import json
import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from exitscope.alarms.alarms import OF_A_VM, OF_ALL
from exitscope.hub import Hub
from exitscope.metrics import exposition
from exitscope.source import Status
from exitscope_probes.exit_reasons import ISA_SVM
from exitscope_probes.ledger import LEDGER
from exitscope_probes.records import MODE_EXIT, SERIES
from exitscope_probes.wire import Kind, Message

from .alarm_scene import MS, Scene, thread

DEPLOY = Path(__file__).parents[2] / "deploy"
OF_PROMETHEUS = {"instance", "job"}
Labels = dict[str, set[str]]
METRIC = re.compile(r"\b(?:exitscope_[a-z_]+|up)\b(?!\()")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|!=|=|!~)\s*"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@pytest.fixture(scope="module")
def told() -> dict[str, Labels]:
    """Every sample name of a server that has everything to tell -> its labels and the values they have there."""
    scene = Scene()
    vm = scene.feeder.add_vm(1, 2, id="one")
    vm.pending, vm.total = 1, 2
    scene.feeder.isa = ISA_SVM
    scene.threads[1] = [thread(700, "uffd reader")]
    scene.start()
    for series in range(SERIES):
        scene.feeder.fault(vm, 0, 2 * MS, 3, series)
    scene.feeder.fault(vm, 1, MS, 3, MODE_EXIT)
    scene.feeder.exit(vm, 0, "EFAULT")
    scene.feeder.hardware_exit(vm, 0, 0x78, 1000)
    scene.feeder.fill(vm, "COPY", 5)
    scene.feeder.fill(vm, "COPY", 5, demand=False)
    scene.feeder.fill(vm, "WAKE", 5)
    scene.wait(vm, 0)
    for _ in range(2):
        scene.threads[1] = [scene.threads[1][0] | {"cpu_ns": scene.threads[1][0]["cpu_ns"] + MS}]
        scene.go(1)
    meta = {"vm": 1, "id": "one", "follow": "followed", "at_ns": scene.feeder.time_ns, "status": "postcopy-active"}
    meta |= {"role": "destination", "remaining_bytes": 1}
    scene.aggregate.handle(Message(Kind.MIGRATION, scene.feeder.time_ns, meta))
    found: dict[str, Labels] = {"up": {}}
    statuses = (Status("live", connected=True, data_ns=1), Status("replay", connected=True, data_ns=1))
    texts = [
        exposition(scene.aggregate, status, Hub(scene.aggregate, status), scene.alarms)[0].decode()
        for status in statuses
    ]
    for family in chain.from_iterable(map(text_string_to_metric_families, texts)):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "exitscope.json").read_text())


def panels() -> list[Any]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def load(name: str) -> Any:
    yaml = importlib.import_module("yaml")  # it has no types
    return yaml.safe_load((DEPLOY / "prometheus" / name).read_text())


def rules() -> list[Any]:
    return [rule for group in load("exitscope.rules.yml")["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of everything that is asked for."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["query"]["query"]


@pytest.mark.parametrize(("where", "query"), list(expressions()))
def test_only_what_the_server_tells_is_asked_for(told: dict[str, Labels], where: str, query: str) -> None:
    text = re.sub(r'"[^"]*"', '""', GROUPING.sub("", query))
    asked = {name for name in METRIC.findall(text) if name != "instance"}
    assert asked and asked <= told.keys(), where
    known: Labels = {}
    for labels in told.values():
        for label, values in labels.items():
            known.setdefault(label, set()).update(values)
    known["where"] |= set(LEDGER)
    own = {label for name in asked for label in told[name]} | OF_PROMETHEUS
    for name, matchers in re.findall(r"\b(exitscope_[a-z_]+|up)\{([^}]*)\}", query):
        for label, _, value in MATCHER.findall(matchers):
            assert label in told[name].keys() | OF_PROMETHEUS, f"{where}: {name} has no label {label}"
            if not value.startswith("$") and label not in OF_PROMETHEUS and value:
                assert set(value.split("|")) <= known[label], f"{where}: {label} is never {value}"
    grouped = {label.strip() for group in GROUPING.findall(query) for label in group.split(",")}
    assert grouped <= own, f"{where}: grouped by what is not there"


def test_legends_and_annotations_use_labels_that_remain(told: dict[str, Labels]) -> None:
    for panel in panels():
        for target in panel["targets"]:
            for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", target["legendFormat"]):
                assert re.search(rf"(by|group_left) ?\([^)]*\b{label}\b", target["expr"]) or label in OF_PROMETHEUS
    for rule in rules():
        assert rule["annotations"].keys() == {"summary", "description"}
        for label in re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())):
            assert label in OF_PROMETHEUS or f"group_left ({label})" in rule["expr"], rule["alert"]


def test_every_alarm_has_an_alert_of_its_severity() -> None:
    alerts = {kind: rule for rule in rules() for kind in re.findall(r'alarm="(\w+)"', rule["expr"])}
    assert alerts.keys() == {*OF_A_VM, *OF_ALL}
    warnings = {kind for kind, rule in alerts.items() if rule["labels"]["severity"] == "warning"}
    assert warnings == {"vcpu_stalled", "vm_stalled", "records_lost", "not_recorded"}


UNITS = (
    ("_over_time(exitscope_", {"", "none"}),
    ("exitscope_vcpus", {"percentunit"}),
    ("_ratio", {"percentunit"}),
    ("stall_seconds_total", {"none"}),  # seconds per second: how many vCPUs
    ("increase(exitscope_fault_latency_seconds_bucket", {""}),  # a heat map's cells; its axis has the unit
    ("_seconds", {"s"}),
    ("_bytes", {"bytes"}),
    ("rate(", {"ops"}),
    ("", {"none", "short", ""}),
)
"""Part of a query, the first that it has -> units that fit what it returns."""


def unit_of(query: str) -> set[str]:
    return next(units for part, units in UNITS if part in query)


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_units_fit(panel: Any) -> None:
    for target in panel["targets"]:
        assert panel["fieldConfig"]["defaults"].get("unit", "") in unit_of(target["expr"])
        if "_total" in target["expr"]:
            assert re.search(r"\b(rate|increase)\(", target["expr"]), "a counter's value alone says nothing"


def test_the_dashboard_can_be_imported() -> None:
    board = dashboard()
    assert board["id"] is None and board["uid"] == "exitscope" and board["schemaVersion"] >= 36
    assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance", "vm"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
        assert panel["title"]
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken and max(x for x, _ in cells) < 24, panel["title"]
        taken |= cells


def test_the_variable_of_vms_shows_names_and_keeps_ids() -> None:
    (variable,) = [one for one in dashboard()["templating"]["list"] if one["name"] == "vm"]
    pattern = variable["regex"].strip("/").replace("(?<", "(?P<")
    said = (
        'exitscope_vm_info{domain="d",instance="kvm1",job="exitscope",name="web 1",uuid="",vm="40-7",vmm="QEMU"} 1 17'
    )
    found = re.search(pattern, said)
    assert found and (found["text"], found["value"]) == ("web 1", "40-7")


def test_an_operator_sees_what_was_asked_for() -> None:
    asked = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    for metric in (
        "exitscope_stall_seconds_total", "exitscope_faults_total", "exitscope_fault_latency_seconds_bucket",
        "exitscope_fault_stage_seconds_sum", "exitscope_fills_total", "exitscope_uffd_queue",
        "exitscope_oldest_fault_seconds", "exitscope_alarm", "exitscope_loss_total", "exitscope_migration_active",
    ):  # fmt: skip
        assert metric in asked


def test_the_scrape_example_fits_the_rules_and_the_alarms() -> None:
    config = load("prometheus.yml")
    (job,) = config["scrape_configs"]
    assert job["job_name"] == "exitscope" and job.get("metrics_path", "/metrics") == "/metrics"
    assert config["rule_files"] == ["exitscope.rules.yml"]
    assert int(job["scrape_interval"].rstrip("s")) <= 15
