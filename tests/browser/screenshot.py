"""Takes the README's picture from the real page: a demo guest under real probes, or any server by its address.

python -m tests.browser.screenshot frontend/screenshot.png [--url http://127.0.0.1:8765/]
"""

import argparse
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

from exitscope_probes.isolated import python
from tests.browser.conftest import ARGUMENTS, CHROMIUM

SETTLE_S = 45  # the charts over time want something to show
WIDTH, HEIGHT = 1600, 1240


@contextmanager
def demo() -> Iterator[str]:
    """Runs `exitscope demo` on a free port and yields its address. Raises SystemExit if it says none."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)  # the server is another user
        command = python("exitscope", "demo", "--port", "0", "--socket", f"{directory}/socket")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            assert process.stdout
            try:
                for line in process.stdout:
                    if found := re.search(r"http://\S+", line):
                        yield found[0]
                        return
                raise SystemExit("exitscope demo ended without naming its address")
            finally:
                process.send_signal(signal.SIGINT)


def shoot(url: str, path: Path, theme: str) -> None:
    """Opens the page, waits until it has data for SETTLE_S, and writes a PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=theme)  # type: ignore[arg-type]
        page.goto(url)
        page.wait_for_selector("#plot-heat .main-svg", timeout=30_000)
        page.wait_for_timeout(SETTLE_S * 1000)
        page.screenshot(path=path)
        browser.close()


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("path", type=Path)
    parser.add_argument("--url", help="a running server; default: a demo of its own")
    parser.add_argument("--theme", choices=("dark", "light"), default="dark")
    options = parser.parse_args()
    if options.url:
        shoot(options.url, options.path, options.theme)
        return
    with demo() as url:
        shoot(url, options.path, options.theme)


if __name__ == "__main__":
    main()
