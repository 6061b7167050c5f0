"""The page of predictions in a real browser: drawn, moved by keyboard, without a request or a message."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from matscale.core.data.store.packed import PackedDataset
from matscale.core.inference.side_by_side import evaluate_runs, names_of
from matscale.core.runs.record import Run
from matscale.core.view.gather import gather
from matscale.core.view.page import page

pytestmark = pytest.mark.long

LIMIT = 300_000
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
TINY = {"hidden": 8, "filters": 8, "n_radial": 8, "n_layers": 1, "cutoff": 4.0}


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[..., Any]]:
    """start(*flags) opens a browser; WebGL is drawn by the processor with `SOFTWARE`, and not at all without."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine: the page is not tried in a browser")
    with api.sync_playwright() as playwright:
        opened = []

        def launch(*flags: str) -> Any:
            opened.append(
                playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *flags], timeout=LIMIT)
            )
            return opened[-1]

        yield launch
        for browser in opened:
            browser.close()


@pytest.fixture
def address(make_run: Callable[..., Run], alloys: PackedDataset, tmp_path: Path) -> str:
    runs = [make_run("schnet", name=name, steps=steps, **TINY) for name, steps in (("a", (1, 5, 9)), ("b", (3,)))]
    ways = ("element", "source", "n_atoms")
    found = evaluate_runs(names_of(runs), alloys, "all", by=ways, n_worst=8, parity=True)
    (tmp_path / "view.html").write_text(page(gather(found, 8)), encoding="utf-8")
    return (tmp_path / "view.html").as_uri()


def tab_of(browser: Any, address: str, **context: Any) -> tuple[Any, list[str]]:
    tab, heard = browser.new_context(**context).new_page(), list[str]()
    tab.set_default_timeout(LIMIT)
    tab.on("console", lambda message: heard.append(message.text))
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
    tab.goto(address)
    tab.wait_for_selector("#by-source .main-svg")
    return tab, heard


def test_a_structure_is_moved_through_its_steps_and_found_again(start: Callable[..., Any], address: str) -> None:
    browser = start(*SOFTWARE)
    tab, heard = tab_of(browser, address, viewport={"width": 800, "height": 500})
    assert tab.locator("#scene canvas").count() == 1
    assert tab.locator("[data-parity] .main-svg").count() >= 6
    assert tab.input_value("#step") == tab.get_attribute("#step", "max") == "3"
    tab.focus("#step")
    tab.keyboard.press("ArrowLeft")
    tab.keyboard.press("ArrowLeft")
    assert "step 3" in tab.get_attribute("#step", "aria-valuetext")
    assert "a, step 1" in tab.inner_text("#corner")
    assert "b, step 3" in tab.inner_text("#corner")
    points = "div => [div.data[2].x.length, div.data[2].y[0]]"
    n, before = tab.eval_on_selector("[data-parity='0-energy']", points)
    tab.keyboard.press("ArrowRight")
    assert n == 8
    assert tab.eval_on_selector("[data-parity='0-energy']", points)[1] != before
    tab.focus("#next")
    tab.keyboard.press("Enter")
    assert tab.get_attribute("#list button >> nth=1", "aria-current") == "true"
    linked, _ = tab_of(browser, tab.url, viewport={"width": 800, "height": 500})
    assert linked.get_attribute("#list button >> nth=1", "aria-current") == "true"
    tab.select_option("#metric", "2")
    assert "energy" in tab.eval_on_selector("#by-size", "div => div.layout.yaxis.title.text")
    assert heard == []


def test_a_click_on_a_point_opens_its_structure(start: Callable[..., Any], address: str) -> None:
    tab, _ = tab_of(start(*SOFTWARE), address, viewport={"width": 1280, "height": 900})
    plot = tab.locator("[data-parity='0-forces']")
    plot.scroll_into_view_if_needed()
    place = plot.evaluate(
        """div => {
          const t = div.data[2], box = div.getBoundingClientRect(), {xaxis, yaxis} = div._fullLayout;
          return {k: t.customdata[5], x: box.left + xaxis._offset + xaxis.d2p(t.x[5]),
                  y: box.top + yaxis._offset + yaxis.d2p(t.y[5])};
        }"""
    )
    tab.mouse.move(place["x"], place["y"])
    tab.wait_for_timeout(300)
    tab.mouse.click(place["x"], place["y"])
    tab.wait_for_function("() => location.hash.startsWith('#row=')")
    chosen = tab.eval_on_selector_all(
        "#list button", "all => all.findIndex(b => b.getAttribute('aria-current') === 'true')"
    )
    assert chosen == place["k"]


def test_without_webgl_the_numbers_stand_in_a_table(start: Callable[..., Any], address: str) -> None:
    tab, _ = tab_of(start("--disable-gpu", "--disable-3d-apis"), address)
    assert tab.locator("#none").is_visible()
    assert tab.locator("#atoms[open] tbody tr").count() == 2


def test_it_is_dark_where_the_reader_wants_it_and_fits_a_phone(start: Callable[..., Any], address: str) -> None:
    browser = start(*SOFTWARE)
    looks = {}
    for scheme in ("light", "dark"):
        tab, _ = tab_of(browser, address, color_scheme=scheme, viewport={"width": 390, "height": 844}, is_mobile=True)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        looks[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert looks["light"] != looks["dark"]


def test_what_a_reader_operates_has_a_name(start: Callable[..., Any], address: str) -> None:
    tab, _ = tab_of(start(*SOFTWARE), address)
    unnamed = tab.evaluate(
        """() => {
          const named = (e) => e.getAttribute('aria-label') || e.textContent.trim() || [...(e.labels || [])].length;
          const all = document.querySelectorAll('main button, main select, main input');
          return [...all].filter((e) => !named(e)).map((e) => e.id);
        }"""
    )
    assert unnamed == []
