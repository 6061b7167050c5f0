"""A report of thousands of runs: how long it takes to build, how large it is, how soon a browser shows it.

    python benchmarks/report.py FOLDER [--runs 2000] [--validations 25]

FOLDER gets the records of a study that never was (those of tests/synthetic_runs.py: two architectures, five sizes, ten
amounts of data, seeds to fill; a row of training beside each validation) and report.html. The browser is headless
Chromium driven by playwright; without either, only the page is built. "First figure" is the time from the address to a
drawn figure in view, "all curves" from the scroll to the figure of all training curves until it is drawn.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from machine import machine  # noqa: E402

from synthetic_runs import make_study  # noqa: E402

DATA = (1000, 1500, 2000, 3000, 4000, 5000, 6000, 7000, 8000, 10_000)
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
CURVES = "[data-figure='curves']"


def build(folder: Path) -> Path:
    page = folder / "report.html"
    began = time.perf_counter()
    command = [sys.executable, "-m", "matscale", "report", str(folder / "runs"), "-o", str(page)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(f"built in {time.perf_counter() - began:.1f} s, {page.stat().st_size / 1e6:.1f} MB")
    return page


def show(page: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no browser was timed: playwright or Chromium is missing")
        return
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto("about:blank")
        began = time.perf_counter()
        tab.goto(page.as_uri(), wait_until="commit")
        tab.wait_for_selector(".plot", state="attached", timeout=120_000)
        tab.eval_on_selector(".plot", "node => node.scrollIntoView()")
        tab.wait_for_selector(".plot .main-svg", state="attached", timeout=120_000)
        print(f"first figure {time.perf_counter() - began:.1f} s after the address")
        began = time.perf_counter()
        tab.eval_on_selector(CURVES, "node => node.scrollIntoView()")
        tab.wait_for_selector(f"{CURVES} .main-svg", state="attached", timeout=120_000)
        print(f"all curves {time.perf_counter() - began:.1f} s after they are scrolled to")
        browser.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--validations", type=int, default=25)
    arguments = parser.parse_args()
    runs = arguments.folder / "runs"
    if not runs.exists():
        seeds = max(1, arguments.runs // (2 * 5 * len(DATA)))
        make_study(runs, data=DATA, seeds=seeds, n_validations=arguments.validations)
    print(machine())
    print(f"{len(list(runs.iterdir())):,} runs")
    show(build(arguments.folder))


if __name__ == "__main__":
    main()
