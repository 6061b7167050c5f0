"""The page of attention in a real browser: drawn, operated by keyboard, without a request or a message."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matscale.core.attention.gather import gather
from matscale.core.attention.page import page
from matscale.core.data.store.packed import PackedDataset
from matscale.core.inference.load import load
from matscale.core.runs.record import Run

pytestmark = pytest.mark.long

LIMIT = 300_000
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
TINY = {"width": 16, "n_heads": 2, "n_layers": 2, "feedforward": 16, "cutoff": 4.0}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium on this machine: the page is not tried in a browser")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", *SOFTWARE], timeout=LIMIT)
        yield opened
        opened.close()


@pytest.fixture
def address(make_run: Callable[..., Run], alloys: PackedDataset, tmp_path: Path) -> str:
    run = make_run("transformer-periodic", **TINY)
    found = gather(run, load(run), alloys, np.arange(len(alloys)))
    (tmp_path / "attention.html").write_text(page(found, {}, "alloys"), encoding="utf-8")
    return (tmp_path / "attention.html").as_uri()


def tab_of(browser: Any, address: str, **context: Any) -> tuple[Any, list[str]]:
    tab, heard = browser.new_context(**context).new_page(), list[str]()
    tab.set_default_timeout(LIMIT)
    tab.on("console", lambda message: heard.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: heard.append(str(error)))
    tab.on("request", lambda request: heard.append(request.url) if request.url.startswith("http") else None)
    tab.goto(address)
    tab.wait_for_selector("#map-3 .main-svg")
    return tab, heard


def test_a_head_is_chosen_by_keyboard_and_found_again(browser: Any, address: str) -> None:
    tab, heard = tab_of(browser, address)
    assert tab.locator(".scene canvas").count() == 3
    tab.focus("[data-show='3']")
    tab.keyboard.press("Enter")
    assert tab.input_value("#layer") == tab.input_value("#head") == "2"
    assert tab.inner_text("#says-head") == "Layer 2, head 2"
    assert tab.get_attribute("[data-head='3']", "aria-current") == "true"
    tab.select_option("#atom", "1")
    assert tab.inner_text("#says-complete") == "1 directed pairs"
    linked, _ = tab_of(browser, tab.url)
    assert linked.inner_text("#says-head") == "Layer 2, head 2"
    assert linked.input_value("#atom") == "1"
    tab.focus("#cutoff")
    tab.keyboard.press("Home")
    assert tab.inner_text("#says-within") == "0 of 1 directed pairs within 1.0 Å"
    assert heard == []


def test_it_is_dark_where_the_reader_wants_it_and_fits_a_phone(browser: Any, address: str) -> None:
    looks = {}
    for scheme in ("light", "dark"):
        tab, _ = tab_of(browser, address, color_scheme=scheme, viewport={"width": 390, "height": 844}, is_mobile=True)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        looks[scheme] = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert looks["light"] != looks["dark"]
