"""Still picture of a figure, as SVG.

A page shows it until its scripts have drawn the figure, or if scripts are blocked.
"""

from __future__ import annotations

import io
import re
from typing import Any

from markupsafe import Markup

from matscale.core.report.build import Panel

TEXT = "#010203"
"""Colour that becomes the colour of the text around the picture, in light and dark mode."""
MARKERS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "x": "X", "star": "*"}
STYLES = {
    "solid": "-",
    "dash": "--",
    "dot": ":",
    "dashdot": "-.",
    "longdash": (0, (8, 3)),
    "longdashdot": (0, (8, 3, 1, 3)),
}


def still(panel: Panel) -> Markup:
    """Draw the lines, bands and points of a figure with matplotlib. The same figure gives the same bytes."""
    import matplotlib  # start-up: matplotlib
    from matplotlib.figure import Figure

    settings: Any = {"svg.hashsalt": "still", "svg.fonttype": "none", "text.color": TEXT, "axes.edgecolor": TEXT,
                "axes.labelcolor": TEXT, "xtick.color": TEXT, "ytick.color": TEXT, "font.size": 9}  # fmt: skip
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        layout = panel.figure.layout
        axes.set(xlabel=_plain(layout.xaxis.title.text), ylabel=_plain(layout.yaxis.title.text))
        axes.set(xscale=layout.xaxis.type or "linear", yscale=layout.yaxis.type or "linear")
        for axis, kind in ((axes.xaxis, layout.xaxis.type), (axes.yaxis, layout.yaxis.type)):
            if kind == "log":
                axis.set_major_formatter(lambda value, _: _tick(value))
                axis.set_minor_formatter(lambda value, _: _tick(value) if f"{value:e}"[0] in "25" else "")
        for trace in panel.figure.data:
            _draw(axes, trace)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=8)
        axes.spines[["top", "right"]].set_visible(False)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].replace(TEXT, "currentColor")
    # Identifiers of the picture must not meet those of the page; addresses of name spaces are no requests, but look so.
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r'(id="|url\(#|href="#)', r"\1still-", svg)
    svg = svg.replace("*{stroke-linejoin", ".still *{stroke-linejoin")  # its style must not reach the other figures
    return Markup(svg.replace("xlink:href", "href").replace("<svg", '<svg class="still"', 1))


def _draw(axes: Any, trace: Any) -> None:
    x, y = list(trace.x), list(trace.y)
    named = _plain(trace.name) if trace.showlegend is not False and trace.name else None
    if trace.fill:
        half = len(x) // 2
        axes.fill_between(
            x[:half], y[:half], y[: half - 1 : -1], color=_colour(trace.fillcolor), alpha=0.16, linewidth=0
        )
    elif "lines" in (trace.mode or ""):
        style: Any = STYLES.get(trace.line.dash or "solid", "-")
        width = trace.line.width or 1.0
        opacity = trace.opacity if trace.opacity is not None else 1.0
        gaps = ([float("nan") if v is None else v for v in values] for values in (x, y))
        axes.plot(*gaps, color=trace.line.color, linestyle=style, linewidth=width, alpha=opacity)
        for at, label in enumerate(trace.text or ()):
            if label:
                axes.annotate(
                    _plain(label), (x[at], y[at]), ha="right", va="bottom", fontsize=7, color=trace.line.color
                )
    else:
        symbol = str(trace.marker.symbol)
        faces = "none" if symbol.endswith("-open") else trace.marker.color
        marker = MARKERS.get(symbol.removesuffix("-open"), "o")
        axes.scatter(x, y, s=22, marker=marker, facecolors=faces, edgecolors=trace.marker.color, label=named)


def _tick(value: float) -> str:
    return f"{value:,.6g}" if value < 1e6 else f"{value:.0e}"


def _colour(faint: str) -> tuple[float, ...]:
    """Colour of a band, from `rgba(r,g,b,a)`."""
    return tuple(int(part) / 255 for part in re.findall(r"\d+", faint)[:3])


def _plain(text: Any) -> str:
    """Text without the escapes that plotly needs, and without the marks that matplotlib reads as mathematics."""
    return Markup(text or "").unescape().replace("$", r"\$")
