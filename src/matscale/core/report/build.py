"""Build a report from run folders: its figures, and the sentences beside each figure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from matscale.core.errors import MatscaleError
from matscale.core.files import make_folder, scratch, write_blocks
from matscale.core.report import laws_figures, runs_figures, words
from matscale.core.report.analysis import TERMS, Analysis, analyse, main_axis, of_target
from matscale.core.report.layout import as_text
from matscale.core.report.records import ALONG, MEASURED, Records, folders_of, read_records
from matscale.core.scaling.fit import varies
from matscale.core.scaling.result import Fit
from matscale.core.scaling.tables.table import Table

MARKS = (
    "The law is fitted to filled points, not to open ones; 95 % of new sizes fall into the band; a dotted line is not "
    "a law; a local slope (long dashes) ends with its points."
)
SECTIONS = ("answer", "laws", "curves", "terms", "exponents", "residuals", "cost")


@dataclass(frozen=True)
class Panel:
    """Figure of a report with the sentences beside it."""

    name: str
    """Name of the figure in file names, and of its element in the page"""
    section: str
    """Section of the page, one of `SECTIONS`"""
    title: str
    figure: Any
    sentences: tuple[str, ...] = ()
    """Sentences as text, or as `Markup` if words in them are marked"""
    is_small: bool = False


@dataclass(frozen=True)
class Report:
    """All that a report page shows."""

    records: Records
    analysis: Analysis
    panels: tuple[Panel, ...]
    sources: tuple[str, ...]


def build(
    sources: Sequence[str],
    *,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    measure_baselines: bool = True,
    samples: int = 1000,
) -> Report:
    """Build the report of the runs in `sources`. Raises ConfigError or DataError if there is no run."""
    return report_of(folders_of(sources), sources, baselines, measure_baselines, samples)


def report_of(
    folders: Sequence[Path],
    sources: Sequence[str],
    baselines: Mapping[str, Mapping[str, float]] | None,
    measure_baselines: bool,
    samples: int,
) -> Report:
    records = read_records(folders)
    analysis = analyse(records, baselines=baselines, measure_baselines=measure_baselines, samples=samples)
    return Report(records, analysis, tuple(_panels(records, analysis)), tuple(sources))


def _panels(records: Records, analysis: Analysis) -> Iterable[Panel]:
    runs, table = records.runs, analysis.table
    if table is not None:
        yield from _law_panels(records, analysis, table)
    if any(run.curve.get("loss") for run in runs):
        text = "Each line is a run's validations. A click on it shows the run; controls choose the axes and the groups."
        yield Panel("curves", "curves", "Training curves", runs_figures.training_curves(runs), (text,))
    if any(one.curves for one in analysis.collapses.values()):
        said = [f"{name or 'runs'}: {one.text}." for name, one in analysis.collapses.items()]
        figure = runs_figures.normalised(analysis.collapses, records.index())
        yield Panel("collapse", "curves", "Normalised curves", figure, tuple(said), is_small=True)
    if table is not None:
        yield from _term_panels(records, analysis, table)
        yield from _exponent_panels(analysis, table)
        yield from _cheaper_panels(analysis)
        yield from _residual_panels(records, analysis, table)
    if any(run.number("flops") and run.n for run in runs):
        yield Panel("cost", "cost", "Cost of an atom", runs_figures.cost(runs), is_small=True)
        yield Panel("speed", "cost", "Speed", runs_figures.speed(runs), is_small=True)


def _law_panels(records: Records, analysis: Analysis, table: Table) -> Iterable[Panel]:
    index, names = records.index(), [run.name for run in records.runs]
    titles = {"n": "Loss against parameters", "d": "Loss against data", "c": "Loss against compute"}
    for axis, title in titles.items():
        if not varies(table, axis):
            continue
        fits = analysis.fits_in(axis)
        said: list[str] = [*map(words.sentence, fits), *_refusals(analysis, axis, "loss")]
        said.append(MARKS)
        section = "answer" if axis == main_axis(table) else "laws"
        yield Panel(f"loss-{axis}", section, title, laws_figures.against(table, fits, axis, index, names), tuple(said))
    if analysis.mixed is not None:
        fit = analysis.mixed
        said = [words.sentence(fit), *words.apart(fit)]
        title = "Deviations of architectures from one law"
        yield Panel("groups", "laws", title, laws_figures.offsets(fit), tuple(said))
    for fit in analysis.fits:
        if fit.axes == ("n", "d"):
            said = [words.sentence(fit), *_refusals(analysis, "nd", "loss", fit.architecture)]
            name, title = f"joint-{plain_name(fit.architecture)}", f"Joint law of {fit.architecture}"
            yield Panel(name, "laws", title, laws_figures.joint(fit, index, names), tuple(said))


def plain_name(architecture: str) -> str:
    """Name of an architecture that is safe for a file and an HTML element.

    A record may hold any name, even `../x` or a tag.
    """
    plain = re.sub(r"[^\w.-]+", "-", architecture)
    return plain if plain == architecture else f"{plain}-{sha256(architecture.encode()).hexdigest()[:6]}"


def _term_panels(records: Records, analysis: Analysis, table: Table) -> Iterable[Panel]:
    index, names = records.index(), [run.name for run in records.runs]
    axis = main_axis(table)
    for term in TERMS:
        part = of_target(table, term)
        if part is None:
            continue
        fits = [fit for fit in analysis.terms.get(term, ()) if fit.axes == (axis,)]
        figure = laws_figures.against(part, fits, axis, index, names, term)
        said = [*map(words.sentence, fits), *_refusals(analysis, axis, term)]
        yield Panel(f"error-{term}", "terms", f"{term.capitalize()} error", figure, tuple(said), is_small=True)


def _exponent_panels(analysis: Analysis, table: Table) -> Iterable[Panel]:
    if not analysis.fits:
        return
    said: list[str] = []
    for comparison in analysis.comparisons:
        if comparison.target != "loss":
            continue
        for pair in comparison.pairs:
            said.append(Markup(" ").join(words.pair_sentences(pair, comparison)))
        said.append(words.ranking(comparison))
    said += [words.refused(one) for one in analysis.refused if one.target == "comparison"]
    said.append("Open markers: no law is claimed.")
    figure = laws_figures.exponents(analysis.fits, table.architectures)
    yield Panel("exponents", "exponents", "Exponents", figure, tuple(said))


def _cheaper_panels(analysis: Analysis) -> Iterable[Panel]:
    """Figures of multipliers, one for each comparison: ratios of the amounts that are needed for the same loss."""
    for one in analysis.comparisons:
        figure = laws_figures.cheaper(one)
        if figure is not None:
            of_term = "" if one.target == "loss" else f" for the {one.target}"
            name = f"cheaper-{one.axis if one.target == 'loss' else one.target}"
            title = f"How much cheaper{of_term}, over {one.axis.upper()}"
            yield Panel(name, "exponents", title, figure, tuple(words.cheaper(one)))


def _residual_panels(records: Records, analysis: Analysis, table: Table) -> Iterable[Panel]:
    index, names = records.index(), [run.name for run in records.runs]
    groups: list[tuple[str, str, str, list[Fit]]] = [
        (f"residuals-{axis}", f"Residuals in {axis.upper()}", axis, analysis.fits_in(axis)) for axis in ("n", "d", "c")
    ]
    joint = [fit for fit in analysis.fits if fit.axes == ("n", "d")]
    for name, title, axis, fits in [*groups, ("residuals-joint", "Residuals of the joint laws", "n", joint)]:
        figure = laws_figures.residuals(table, fits, axis, index, names)
        if figure is not None:
            yield Panel(name, "residuals", title, figure, tuple(map(_scatter, fits)), is_small=True)


def _scatter(fit: Fit) -> Markup:
    spread = 100 * float(np.sqrt(np.mean(np.expm1(fit.residuals) ** 2)))
    said = f": the points ({fit.points}) lie {spread:.2g} % (rms) from the {fit.law.name} law."
    return Markup("<b>{}</b>{}").format(fit.architecture, said)


def _refusals(analysis: Analysis, axis: str, target: str, architecture: str = "") -> list[Markup]:
    ways = {"c": ("c", "frontier", ""), "nd": ("nd",)}.get(axis, (axis,))
    return [
        words.refused(one)
        for one in analysis.refused
        if one.target == target and one.way in ways and architecture in ("", one.architecture)
    ]


def choices(panel: Panel) -> dict[str, dict[str, str]]:
    """Choices that the page offers for a figure: quantities under `x` and `y`, groupings under `by`; labels by key."""
    if panel.name != "curves":
        return {}
    return {
        "x": dict(ALONG),
        "y": {key: title for key, (title, _) in MEASURED.items()},
        "by": {way: way for way in runs_figures.BY},
    }


def write_figures(panels: Sequence[Panel], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write a file for each figure and format. Raises MatscaleError if kaleido or a browser is missing."""
    try:
        # optional: kaleido
        import kaleido  # noqa: F401 - plotly asks for it only when it is too late to say what to install
    except ImportError:
        raise MatscaleError(
            'Static figures need kaleido, which is not installed. Install it: pip install "matscale[figures]". '
            "The page itself does not need it."
        ) from None
    from choreographer.errors import ChromeNotFoundError  # optional: choreographer
    from plotly.io import write_images

    paths = [folder / f"{panel.name}.{kind}" for panel in panels for kind in formats]
    if not paths:
        return []
    make_folder(folder)
    figures = [_for_paper(panel) for panel in panels for _ in formats]
    try:
        with scratch("figures") as drawn:
            files = [drawn / path.name for path in paths]
            write_images(figures, [str(file) for file in files], format=[file.suffix[1:] for file in files], scale=2)
            for file, path in zip(files, paths):
                write_blocks(path, [file.read_bytes()])
    except ChromeNotFoundError:
        raise MatscaleError(
            "Static figures are drawn by Chrome or Chromium, but neither was found. Install one (apt install "
            "chromium), or say where it is: BROWSER_PATH=/path/to/chrome."
        ) from None
    return paths


def _for_paper(panel: Panel) -> object:
    """Copy of a figure for print: white background, width of a column, title inside the figure."""
    from plotly.graph_objects import Figure  # start-up: plotly

    fig = Figure(panel.figure)
    fig.update_layout(
        width=640, height=panel.figure.layout.height or 460, paper_bgcolor="white", plot_bgcolor="white",
        title={"text": as_text(panel.title), "x": 0.02, "font": {"size": 14}}, margin={"t": 76},
    )  # fmt: skip
    return fig
