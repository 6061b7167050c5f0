"""The page in a real browser: figures drawn, controls and clicks at work, not one request, not one message."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from matscale.core.report.build import build
from matscale.core.report.page import page
from matscale.core.report.serve import Pages, server, url
from synthetic_runs import make_study

pytestmark = pytest.mark.slow

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
LIMIT = 120_000
"""Milliseconds: a browser beside other work can be slow, and is not what is tested."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
    found = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("no Chromium on this machine: the page is not tried in a browser")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=list(FLAGS), timeout=LIMIT)
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    study = make_study(folder / "runs", sizes=(3000, 10_000, 30_000, 100_000), data=(1000, 10_000))
    (folder / "report.html").write_text(page(build([str(study)], samples=50)), encoding="utf-8")
    return (folder / "report.html").as_uri()


class Opened:
    """A tab, and what it said and asked for."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self.tab = browser.new_context(**context).new_page()
        self.tab.set_default_timeout(LIMIT)
        self.heard: list[str] = []
        self.asked: list[str] = []
        self.tab.on("console", lambda message: self.heard.append(message.text))
        self.tab.on("pageerror", lambda error: self.heard.append(str(error)))
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.goto(address)
        self.tab.wait_for_selector(".plot")

    def figure(self, name: str) -> dict[str, Any]:
        """What plotly shows in a figure, once it is drawn."""
        self.tab.eval_on_selector(f"[data-figure='{name}']", "div => div.scrollIntoView()")
        self.tab.wait_for_selector(f"[data-figure='{name}'] .main-svg")
        return self.tab.eval_on_selector(
            f"[data-figure='{name}']",
            "div => ({data: div.data.map(t => ({...t})), x: div.layout.xaxis.type, y: div.layout.yaxis.type})",
        )


@pytest.fixture(scope="module")
def desktop(browser: Any, address: str) -> Opened:
    return Opened(browser, address, viewport={"width": 1280, "height": 900})


def shown(figure: dict[str, Any]) -> list[str]:
    return [trace["name"] for trace in figure["data"] if trace.get("visible") is not False and trace.get("name")]


def test_every_figure_is_drawn_with_its_traces(desktop: Opened) -> None:
    names = desktop.tab.eval_on_selector_all(".plot", "divs => divs.map(div => div.dataset.figure)")
    assert len(names) > 10
    for name in names:
        assert shown(desktop.figure(name)), name
        assert desktop.tab.locator(f"[data-figure='{name}'] .trace").count() > 0, name


def test_no_button_would_send_a_figure_to_a_server(desktop: Opened) -> None:
    desktop.figure("loss-n")
    names = desktop.tab.eval_on_selector_all(
        "[data-figure='loss-n'] .modebar-btn", "buttons => buttons.map(b => b.dataset.title || b.dataset.attr)"
    )
    assert len(names) == 6
    assert not [name for name in names if "loud" in name or "hare" in name or "link" in name.lower()]


def test_a_scale_is_switched_by_the_keyboard_alone(desktop: Opened) -> None:
    assert desktop.figure("loss-n")["y"] == "log"
    button = desktop.tab.locator("[data-of='loss-n'][data-scale='y']")
    button.focus()
    desktop.tab.keyboard.press("Enter")
    assert (desktop.figure("loss-n")["y"], button.get_attribute("aria-pressed")) == ("linear", "false")
    desktop.tab.keyboard.press("Space")
    assert (desktop.figure("loss-n")["y"], button.get_attribute("aria-pressed")) == ("log", "true")


def test_curves_are_drawn_against_and_grouped_by_what_is_chosen(desktop: Opened) -> None:
    before = desktop.figure("curves")["data"][0]
    desktop.tab.select_option("[data-of='curves'][data-choice='x']", "epoch")
    desktop.tab.select_option("[data-of='curves'][data-choice='by']", "data")
    after = desktop.figure("curves")["data"][0]
    assert after["x"] == before["meta"]["choices"]["x"]["epoch"] != before["x"]
    assert {trace["name"] for trace in desktop.figure("curves")["data"]} == {"D = 1,000", "D = 10,000"}
    desktop.tab.select_option("[data-of='curves'][data-choice='x']", "flops")
    assert desktop.figure("curves")["data"][0]["x"] == before["x"]
    desktop.tab.select_option("[data-of='curves'][data-choice='by']", "architecture")


def test_the_selection_holds_for_figures_and_the_table(desktop: Opened) -> None:
    rows = desktop.tab.locator("#runs-table tbody tr:visible")
    assert rows.count() == 16
    desktop.tab.uncheck("[data-kind='architecture'][value='schnet']")
    assert rows.count() == 8
    assert all("schnet" not in name for name in shown(desktop.figure("loss-n")))
    assert any("transformer" in name for name in shown(desktop.figure("loss-n")))
    desktop.tab.uncheck("[data-kind='data'][value='0']")
    assert rows.count() == 4
    desktop.tab.click("button[type='reset']")
    assert rows.count() == 16
    assert any("schnet" in name for name in shown(desktop.figure("loss-n")))


def test_a_click_on_a_point_leads_to_its_run_and_its_curve(desktop: Opened) -> None:
    desktop.figure("loss-n")
    desktop.tab.locator("[data-figure='loss-n']").scroll_into_view_if_needed()
    place = desktop.tab.eval_on_selector(
        "[data-figure='loss-n']",
        """div => {
          const k = div.data.findIndex(t => t.meta && t.meta.runs), t = div.data[k], box = div.getBoundingClientRect();
          const {xaxis, yaxis} = div._fullLayout;
          return {run: t.meta.runs[0], x: box.left + xaxis._offset + xaxis.d2p(t.x[0]),
                  y: box.top + yaxis._offset + yaxis.d2p(t.y[0])};
        }""",
    )
    desktop.tab.mouse.move(place["x"], place["y"])
    desktop.tab.mouse.click(place["x"], place["y"])
    desktop.tab.wait_for_selector("#chosen:not([hidden])")
    row = desktop.tab.locator("#runs-table tr.chosen")
    assert row.get_attribute("id") == f"run-{place['run']}"
    assert desktop.tab.url.endswith(f"#run-{place['run']}")
    assert row.locator("button").inner_text() in desktop.tab.inner_text("#chosen")
    curves = desktop.figure("curves")["data"]
    assert [t["line"]["width"] for t in curves if t["name"] == "chosen"] == [3]
    desktop.tab.keyboard.press("Escape")
    assert desktop.tab.locator("#chosen").is_hidden()
    assert "chosen" not in shown(desktop.figure("curves"))


@pytest.mark.long
def test_a_run_is_found_without_a_mouse_and_by_its_address(desktop: Opened, browser: Any, address: str) -> None:
    desktop.tab.focus("[data-run='2']")
    desktop.tab.keyboard.press("Enter")
    assert desktop.tab.locator("#run-2.chosen").count() == 1
    desktop.tab.keyboard.press("Escape")
    linked = Opened(browser, f"{address}#run-5")
    assert linked.tab.locator("#run-5.chosen").count() == 1


def test_the_table_is_sorted_by_numbers(desktop: Opened) -> None:
    head = desktop.tab.locator("#runs-table th", has_text="FLOPs")
    for order in ("ascending", "descending"):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == order
        values = desktop.tab.eval_on_selector_all(
            "#runs-table tbody tr", "rows => rows.map(row => Number(row.cells[7].textContent.replaceAll(',', '')))"
        )
        assert values == sorted(values, reverse=order == "descending")


@pytest.mark.long
def test_it_is_dark_where_the_reader_wants_it_dark(browser: Any, address: str) -> None:
    looks = {}
    for scheme in ("light", "dark"):
        opened = Opened(browser, address, color_scheme=scheme)
        opened.figure("loss-n")
        looks[scheme] = opened.tab.evaluate(
            "() => [getComputedStyle(document.body).backgroundColor,"
            " document.querySelector(\"[data-figure='loss-n']\").layout.font.color]"
        )
    assert looks["light"][0] != looks["dark"][0]
    assert looks["light"][1] != looks["dark"][1]


@pytest.mark.long
def test_a_phone_shows_it_without_scrolling_sideways(browser: Any, address: str) -> None:
    phone = Opened(browser, address, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    phone.figure("error-energy")
    assert phone.tab.evaluate("document.documentElement.scrollWidth") <= 390
    width = phone.tab.eval_on_selector("#loss-n", "figure => figure.getBoundingClientRect().width")
    assert width > 340


def test_nothing_was_said_and_nothing_was_asked_for(desktop: Opened) -> None:
    """Last in this file: after all that was done above."""
    assert desktop.heard == []
    assert [url for url in desktop.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert desktop.tab.evaluate("performance.getEntriesByType('resource').map(e => e.name)") == []


@pytest.mark.long
@pytest.mark.network
def test_the_served_page_works_under_its_policy(browser: Any, address: str) -> None:
    """Figures are drawn and nothing is complained of; a script that came from elsewhere is not run."""
    text = Path(urlsplit(address).path).read_text(encoding="utf-8")
    served = server(Pages(["."], lambda version: text), "127.0.0.1", 0)
    thread = threading.Thread(target=served.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        opened = Opened(browser, url(served), viewport={"width": 1280, "height": 900})
        names = opened.tab.eval_on_selector_all(".plot", "divs => divs.map(div => div.dataset.figure)")
        assert all(opened.figure(each)["data"] for each in names)
        assert opened.heard == []
        opened.tab.evaluate("document.body.append(Object.assign(document.createElement('script'), {text: 'bad = 1'}))")
        assert opened.tab.evaluate("typeof bad") == "undefined"
        assert any("Content Security Policy" in each for each in opened.heard)
    finally:
        served.shutdown()
        served.server_close()
        thread.join()


def test_an_error_or_a_request_would_be_noticed(browser: Any, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<div class=plot><svg class=main-svg width=9 height=9></svg></div>"
        "<img src='http://127.0.0.1:9/x.png'><script>missing()</script>"
    )
    opened = Opened(browser, bad.as_uri())
    assert any("missing" in text for text in opened.heard)
    assert any("127.0.0.1" in url for url in opened.asked)
