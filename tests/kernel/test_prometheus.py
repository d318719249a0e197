"""A real Prometheus scrapes /metrics beside a real guest: it takes the format, and its quantiles are ours."""

import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.kernel.harness import TIMEOUT_S, finish, guest
from tests.product import Product

pytestmark = pytest.mark.needs("root", "bpf", "kvm", "uffd", "prometheus")

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "exitscope.rules.yml"
PAGES = 4000
NS_PER_S = 1_000_000_000


class Prometheus:
    """Its API."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        """The data of an answer, None while there is none."""
        with suppress(OSError):
            url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]
        return None

    def value(self, query: str) -> float | None:
        """Of a query with one series, None while there is none."""
        found = self.get("query", query=query)
        return float(found["result"][0]["value"][1]) if found and found["result"] else None

    def until(self, ask: Callable[[], Any], what: str) -> Any:
        """The first answer."""
        deadline = time.monotonic() + TIMEOUT_S
        while not (found := ask()):
            assert time.monotonic() < deadline, f"never: {what}; {self.get('targets')}"
            time.sleep(0.1)
        return found


@contextmanager
def scraping(target: str, directory: Path) -> Iterator[Prometheus]:
    """It scrapes once a second, and evaluates our rules."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    job = {"job_name": "exitscope", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config = directory / "prometheus.json"  # YAML's subset
    config.write_text(json.dumps({"rule_files": [str(RULES)], "scrape_configs": [job]}))
    options = [f"--config.file={config}", f"--storage.tsdb.path={directory}", f"--web.listen-address={address}"]
    with subprocess.Popen(["prometheus", *options], stderr=subprocess.DEVNULL) as process:
        try:
            yield Prometheus(f"http://{address}")
        finally:
            process.kill()


@pytest.mark.parametrize("buckets", ["few", "exact"])
def test_prometheus_sees_what_the_api_says(start: Callable[..., Product], tmp_path: Path, buckets: str) -> None:
    options = ("--vcpus", 1, "--pages", PAGES, "--delay-us", 200, "--delay-dist", "exp")
    product = start("run", "--metrics-buckets", buckets)
    product.until("api/v1/health", lambda health: health["source"]["state"] == "connected", "a collector")
    with guest(*options, "--pause-ms-before-exit", 120_000) as workload:
        vm = product.wait_for_vm(workload.pid)

        def all_counted(answer: Any) -> bool:
            return any(one["id"] == vm and one["faults"]["uffd"] == PAGES for one in answer["vms"])

        product.until("api/v1/vms", all_counted, "all faults counted")
        latency = product.get(f"api/v1/vms/{vm}/vcpus?window=15m")["vcpus"][0]["latency_ns"]
        with scraping(urllib.parse.urlsplit(product.url).netloc, tmp_path) as prometheus:
            series = f'{{vm="{vm}",mode="uffd"}}'
            prometheus.until(lambda: prometheus.value(f"exitscope_faults_total{series}") == PAGES, "a scrape")
            (target,) = prometheus.get("targets")["activeTargets"]
            assert (target["health"], target["lastError"]) == ("up", "")
            assert prometheus.value(f"exitscope_fault_latency_seconds_count{series}") == latency["count"] == PAGES
            sum_s = prometheus.value(f"exitscope_fault_latency_seconds_sum{series}")
            assert sum_s == pytest.approx(latency["sum"] / NS_PER_S)
            bounds = sorted(
                float(one["metric"]["le"])
                for one in prometheus.get("query", query=f"exitscope_fault_latency_seconds_bucket{series}")["result"]
            )
            for quantile, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99")):
                query = f"histogram_quantile({quantile}, exitscope_fault_latency_seconds_bucket{series})"
                theirs, ours = prometheus.value(query), latency[name] / NS_PER_S
                assert theirs is not None
                lower = max((bound for bound in bounds if bound < ours / 1.05), default=0.0)
                upper = min(bound for bound in bounds if bound >= ours * 1.05)
                assert lower <= theirs <= upper, (quantile, ours, bounds)
            rules = prometheus.get("rules")["groups"]
            assert {rule["health"] for group in rules for rule in group["rules"]} <= {"ok", "unknown"}
        workload.terminate()
        finish(workload)
