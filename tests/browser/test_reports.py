"""The reports of `exitscope compare` and `exitscope bench`, opened as files in real Chromium."""

from pathlib import Path

import pytest

from exitscope.bench import report as bench_report
from exitscope.bench.models import RunResult
from exitscope.bench.runner import Bench
from exitscope.compare import report as compare_report
from exitscope.compare.comparison import compare
from exitscope_probes.records import MODE_EXIT
from tests.browser.conftest import Open
from tests.unit.recordings import synthetic_records, write_recording

pytestmark = pytest.mark.needs("chromium")
CONTRAST = (Path(__file__).parent / "contrast.js").read_text()


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, int]]:
    """Name -> (file, number of figures)."""
    directory = tmp_path_factory.mktemp("reports")
    a = write_recording(directory / "a.parquet", synthetic_records(6000, vcpus=16), name="before <b>")
    fast = synthetic_records(6000, vcpus=16, mode=MODE_EXIT, serve_ns=90_000)
    b = write_recording(directory / "b.parquet", fast, name="after", kernel="6.12.0")
    made = Bench([], directory, pages=1000, repeats=2, seed=1)
    made.results = [
        RunResult(
            mode=mode, vcpus=vcpus, handlers=2 if mode == "uffd" else 0, repeat=repeat, traced=traced, faults=1000,
            wall_ns=10_000_000 + repeat, rate_per_s=20_000 * vcpus**0.3 * (0.9 if traced else 1),
        )
        for mode in ("uffd", "exit") for vcpus in (1, 4, 16, 64) for repeat in range(2) for traced in (False, True)
    ]  # fmt: skip
    (directory / "compare.html").write_text(compare_report.html(compare(a, b, force=True)))
    (directory / "bench.html").write_text(bench_report.html(made.summary()))
    return {"compare": (directory / "compare.html", 4), "bench": (directory / "bench.html", 2)}


@pytest.mark.parametrize("name", ["compare", "bench"])
@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize("width", [1280, 1920])
def test_a_report_is_legible_and_loads_nothing(
    open_page: Open, reports: dict[str, tuple[Path, int]], name: str, theme: str, width: int
) -> None:
    path, figures = reports[name]
    page = open_page(path.as_uri(), width=width, color_scheme=theme).page
    page.wait_for_function(f"document.querySelectorAll('.plot > .plot-container').length === {figures}")
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, "nothing scrolls sideways"
    assert page.evaluate(CONTRAST) == []
    for box in page.locator(".plot").all():
        drawn, place = box.locator(".main-svg").first.bounding_box(), box.bounding_box()
        assert drawn and place and abs(drawn["width"] - place["width"]) <= 1
    texts = page.locator(".plot .ytick text, .plot .xtick text").all_text_contents()
    assert len(texts) > 8 * figures / 2 and all(texts)


def test_the_theme_may_change_while_it_is_open(open_page: Open, reports: dict[str, tuple[Path, int]]) -> None:
    page = open_page(reports["compare"][0].as_uri(), color_scheme="light").page
    colour = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    page.wait_for_selector(".plot .xtick text")
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"{colour} !== {light!r}")
    assert page.evaluate(CONTRAST) == []
