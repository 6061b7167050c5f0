"""The page: what it claims, that it is whole in itself, and that it is the same for the same records."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import pytest

from matscale.core.report import laws_figures
from matscale.core.report.analysis import Analysis, analyse
from matscale.core.report.answer import headline
from matscale.core.report.build import Report, _panels, build
from matscale.core.report.laws_figures import LINE, _labels
from matscale.core.report.page import page, scripts
from matscale.core.report.records import Records, folders_of, read_records
from matscale.core.report.still import still
from matscale.core.report.tables import more
from synthetic_runs import make_run, make_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def report(study: Path) -> Report:
    return build([str(study)], samples=50)


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return page(report)


def without_plotly(text: str) -> str:
    from plotly.offline import get_plotlyjs

    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def figures(text: str) -> dict[str, dict]:
    found = re.search(r'id="report-data">(.*?)</script>', text, flags=re.S)
    assert found is not None
    return json.loads(found[1])["figures"]


def test_the_page_has_every_figure_with_a_place_and_a_title(report: Report, text: str) -> None:
    names = {panel.name for panel in report.panels}
    assert names >= {
        "loss-n", "loss-d", "loss-c", "joint-schnet", "joint-transformer", "curves", "error-energy", "error-forces",
        "error-stress", "exponents", "residuals-n", "residuals-joint", "cost", "speed",
    }  # fmt: skip
    assert set(figures(text)) == names
    for panel in report.panels:
        assert f'data-figure="{panel.name}" role="img" aria-label="{panel.title}"' in text


def test_the_page_needs_nothing_from_elsewhere(text: str) -> None:
    own = without_plotly(text)
    assert not re.findall(r"https?://", own)
    assert re.findall(r"<link[^>]*>", own) == ['<link rel="icon" href="data:,">']
    assert not re.findall(r"<(?:script|img|iframe)[^>]*\ssrc=", own)


def test_every_script_of_the_page_is_one_that_a_server_permits(text: str) -> None:
    assert tuple(re.findall(r"<script>(.*?)</script>", text, flags=re.S)) == scripts()


def test_the_same_records_give_the_same_bytes(study: Path, text: str) -> None:
    assert page(build([str(study)], samples=50)) == text


def test_every_law_is_said_in_words_with_its_interval(report: Report, text: str) -> None:
    assert {fit.verdict for fit in report.analysis.fits} >= {"law with floor", "incomplete design"}
    for panel in report.panels:
        if panel.name.startswith("joint-"):
            assert "α = " in panel.sentences[0]
    assert '<span class="chip yes">law with floor</span>' in text
    assert '<span class="chip no">incomplete design</span>' in text


def test_the_normalised_curves_are_shown_with_the_check_of_each_architecture(report: Report) -> None:
    panel = next(panel for panel in report.panels if panel.name == "collapse")
    assert [sentence.split(":")[0] for sentence in panel.sentences] == ["schnet", "transformer"]
    assert all(trace.y[-1] == 1 for trace in panel.figure.data)
    assert len(panel.figure.data) == len(report.records.runs)


def test_a_law_that_is_none_has_no_band_and_says_not_to_be_extrapolated(report: Report) -> None:
    panel = next(panel for panel in report.panels if panel.name == "loss-d")  # three amounts of data carry no law
    assert all(fit.verdict == "incomplete design" for fit in report.analysis.fits_in("d"))
    lines = [t for t in panel.figure.data if t.mode == "lines" and t.name and "incomplete design" in t.name]
    assert lines
    assert all(line.line.dash == "dot" for line in lines)
    assert not any(trace.fill for trace in panel.figure.data)
    assert "not to be extrapolated" in panel.sentences[0]


def test_a_law_or_a_local_slope_has_a_band_around_its_line(report: Report) -> None:
    panel = next(panel for panel in report.panels if panel.name == "loss-n")
    laws = [fit for fit in report.analysis.fits_in("n") if fit.is_law or fit.verdict == "local slope"]
    bands = [trace for trace in panel.figure.data if trace.fill == "toself"]
    assert len(bands) == len(laws) > 0
    half = len(bands[0].y) // 2
    assert all(low < high for low, high in zip(bands[0].y[:half], bands[0].y[: half - 1 : -1]))


def test_baselines_stand_in_the_figures_in_the_unit_of_the_axis(report: Report) -> None:
    panels = {panel.name: panel for panel in report.panels}
    for name, value in (("loss-n", 60.0), ("error-energy", 2000.0), ("error-stress", 120.0)):
        lines = [t for t in panels[name].figure.data if t.meta and t.meta.get("baseline") == "zero"]
        assert [tuple(line.y) for line in lines] == [(value, value)]


def test_a_point_names_its_run(report: Report) -> None:
    panel = next(panel for panel in report.panels if panel.name == "error-forces")
    checked = 0
    for trace in panel.figure.data:
        for run, x, y in zip(trace.meta.get("runs", []), trace.x, trace.y):
            assert report.records.runs[run].n == x
            assert report.records.runs[run].last["forces_mae"] * 1000 == pytest.approx(y, rel=1e-4)
            checked += 1
    assert checked == 30


def test_the_segments_of_a_curve_are_its_runs(report: Report) -> None:
    panel = next(panel for panel in report.panels if panel.name == "curves")
    seen = []
    for trace in panel.figure.data:
        for run, start, end in trace.meta["segments"]:
            assert list(trace.y[start:end]) == report.records.runs[run].curve["loss"]
            assert trace.meta["by"]["architecture"][0] == report.records.runs[run].architecture
            seen.append(run)
    assert sorted(seen) == list(range(30))


def test_what_laws_did_not_see_is_listed(text: str) -> None:
    assert "its d differs: the law in n is fitted at d = 10,000" in text


def test_names_from_records_are_text_and_never_markup(tmp_path: Path) -> None:
    make_run(tmp_path / "x", device="<script>alert(1)</script>", data_path="/data/</script><b>")
    text = page(build([str(tmp_path)], measure_baselines=False, samples=50))
    own = without_plotly(text)
    assert "<script>alert" not in own
    assert "/data/</script>" not in own


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Runs and an architecture whose names are markup and a path."""
    study = make_study(tmp_path_factory.mktemp("hostile"), architectures=("schnet",))
    records = read_records(folders_of([str(study)]))
    name = '../../x"><img src=x onerror=alert(1)>'
    runs = Records(
        tuple(
            replace(
                run,
                name=f"<b>&%{{x}}{k}",
                info={**run.info, "architecture": {**run.info["architecture"], "name": name}},
            )
            for k, run in enumerate(records.runs)
        )
    )
    analysis = analyse(runs, measure_baselines=False, samples=50)
    return Report(runs, analysis, tuple(_panels(runs, analysis)), (str(study),))


def test_the_name_of_an_architecture_is_neither_markup_nor_a_path(hostile: Report) -> None:
    assert any(fit.axes == ("n", "d") for fit in hostile.analysis.fits)
    assert all(re.fullmatch(r"[\w.-]+", panel.name) for panel in hostile.panels)
    assert len({panel.name for panel in hostile.panels}) == len(hostile.panels)
    assert "<img" not in without_plotly(page(hostile))


def test_figures_show_names_of_runs_and_architectures_letter_by_letter(hostile: Report) -> None:
    texts = []
    for panel in hostile.panels:
        for trace in panel.figure.data:
            columns = (value for value in (trace.text, trace.x, trace.y) if value is not None)
            several = (one for column in columns for one in ([column] if isinstance(column, str) else column))
            labels = (trace.meta or {}).get("by", {}).values()
            texts += [trace.name, *several, *(look[0] for look in labels)]
        for axis in (panel.figure.layout.xaxis, panel.figure.layout.yaxis):
            texts += [axis.title.text, *(axis.categoryarray or ())]
    texts = [text for text in texts if isinstance(text, str)]
    assert {text for text in texts if re.search(r"<(?!br>)|&(?!\w+;|#\d+;)", text)} == set()
    assert any("&lt;b&gt;&amp;%{x}" in text for text in texts)
    assert any("&lt;img" in text for text in texts)


def test_hover_templates_are_constants_and_refer_to_texts() -> None:
    for file in Path(laws_figures.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Dict):
                for key, value in zip(node.keys, node.values):
                    is_template = isinstance(key, ast.Constant) and key.value == "hovertemplate"
                    assert not is_template or isinstance(value, ast.Constant), f"{file.name}:{node.lineno}"


def test_runs_that_are_not_complete_are_shown_and_carry_no_law(tmp_path: Path) -> None:
    make_run(tmp_path / "a", status="stopped")
    report = build([str(tmp_path)], samples=50)
    text = page(report)
    assert report.analysis.fits == ()
    assert "is not complete (status: stopped)" in text
    assert {panel.name for panel in report.panels} == {"curves", "cost", "speed"}


def test_runs_of_two_datasets_are_shown_and_not_fitted_together(tmp_path: Path) -> None:
    other = {"path": "/data/b", "hash": "cd" * 32, "train": 1000, "labels_by": None}
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", size=30_000, dataset=other)
    text = page(build([str(tmp_path)], samples=50))
    assert "No laws: " in text
    assert "their losses are not the same quantity" in text


def test_two_thousand_runs_stay_below_thirty_megabytes(tmp_path: Path) -> None:
    from matscale.core.report.analysis import Analysis
    from matscale.core.report.build import _panels
    from matscale.core.report.records import Records, RunRecord, read_records

    first = read_records([make_run(tmp_path / "run", n_validations=300)] * 1).runs[0]
    long = {key: [1.2345 + k / 7 for k in range(30)] for key in first.curve}
    runs = tuple(
        RunRecord(Path(f"runs/{k}"), f"runs/schnet-{k}", "completed", "", first.info, first.config, long)
        for k in range(2000)
    )
    records = Records(runs)
    analysis = Analysis(None, refusal="none")
    text = page(Report(records, analysis, tuple(_panels(records, analysis)), ("runs",)))
    assert len(text.encode()) < 30e6


def test_the_first_screen_says_the_answer_in_words_beside_one_figure(report: Report, text: str) -> None:
    top = text[text.index("<header>") : text.index('id="verdicts"')]
    assert "<h1>schnet has the lowest loss of 2 architectures at N = 300,000.</h1>" in top
    assert "For the same loss, transformer needs" in top
    assert top.count("<figure") == 1
    assert 'data-figure="loss-n"' in top
    assert "validation loss</dt><dd>2.5 × energy [eV/atom] + 20 × forces [eV/Å]" in top
    assert headline(Analysis(None, refusal="No run has begun yet.")) == "No laws: No run has begun yet."


def test_losses_that_are_not_apart_have_no_winner(report: Report) -> None:
    [comparison, *_] = [one for one in report.analysis.comparisons if one.axis == "n" and one.target == "loss"]
    ranks = tuple(replace(rank, low=1.0, high=99.0) for rank in comparison.ranking)
    same = replace(report.analysis, comparisons=(replace(comparison, ranking=ranks),))
    assert headline(same).startswith("schnet and transformer cannot be told apart at N = 300,000")


def test_an_architecture_alone_has_its_verdict_in_the_headline(report: Report) -> None:
    alone = replace(report.analysis, comparisons=())
    assert re.search("follows a law in parameters N|has a slope in parameters N", headline(alone))
    without = replace(alone, fits=())
    assert headline(without) == "No law: too few sizes, or none that differ."


def test_the_first_figure_is_also_a_still_picture_for_pages_without_scripts(report: Report, text: str) -> None:
    panel = next(panel for panel in report.panels if panel.section == "answer")
    picture = still(panel)
    assert picture == still(panel)
    assert picture in text
    assert "<noscript>" in text
    root = ElementTree.fromstring(picture)
    assert root.get("class") == "still"
    said = "".join(root.itertext())
    assert all(word in said for word in ("schnet", "transformer", "validation loss", "zero"))
    assert "currentColor" in picture
    assert re.findall(r"<style[^>]*>([^{]*){", picture) == [".still *"]


def test_the_tooltip_of_a_run_has_n_and_d_and_what_the_law_says(report: Report) -> None:
    panel = next(panel for panel in report.panels if panel.name == "loss-n")
    trace = next(
        t for t in panel.figure.data if t.meta and t.meta.get("runs") and not str(t.marker.symbol).endswith("open")
    )
    run = report.records.runs[trace.meta["runs"][0]]
    [fit] = [fit for fit in report.analysis.fits_in("n") if fit.architecture == run.architecture]
    assert f"N = {run.n:,.0f}, D = {run.d:,.0f}" in trace.text[0]
    assert f"says {fit.predict(np.array([run.n]))[0][0]:.4g}, the run is" in trace.text[0]


def test_the_table_of_runs_can_be_taken_away_as_csv(report: Report, text: str) -> None:
    address = re.search(r'download="runs.csv" href="(data:[^"]*)"', text)
    assert address is not None
    rows = list(csv.DictReader(io.StringIO(unquote(address[1].partition(",")[2]))))
    assert [row["run"] for row in rows] == [run.name for run in report.records.runs]
    assert [float(row["N"]) for row in rows] == [run.n for run in report.records.runs]
    assert [float(row["loss"]) for row in rows] == pytest.approx(
        [run.last["loss"] for run in report.records.runs], rel=1e-3
    )


def test_a_chosen_run_has_its_folder_its_rate_and_its_configuration(report: Report) -> None:
    run = replace(
        report.records.runs[0], config={"architecture": {"config": {"hidden": 64}}, "optimizer": {"lr": 0.002}}
    )
    facts = dict(json.loads(more(run)))
    assert facts["folder"] == str(run.path)
    assert facts["learning rate"] == "0.002"
    assert facts["configuration"] == "hidden = 64"


def test_names_of_baselines_that_lie_together_do_not_cover_each_other() -> None:
    close = [("composition", 32.06), ("mean", 32.1), ("zero", 32.3), ("nearest", 60.0)]
    assert _labels(close) == {"zero": "composition, mean, zero", "nearest": "nearest"}
    # 154, 156, 170 and 221 meV/atom of the default data, in a figure of one and a half decades
    emt = [("composition", 154.6), ("nearest", 156.3), ("mean", 170.4), ("zero", 220.7)]
    assert _labels(emt, 30.0**LINE) == {"mean": "composition, nearest, mean", "zero": "zero"}
    steps = [("a", 1.0), ("b", 1.07), ("c", 1.14)]  # a chain, of which each covers the next
    assert _labels(steps) == {"c": "a, b, c"}
