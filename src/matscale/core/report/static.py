"""Figures as files for a paper: PNG, SVG or PDF, drawn by a browser on this machine through kaleido."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matscale.core.errors import MatscaleError
from matscale.core.files import make_folder, scratch, write_blocks
from matscale.core.report.build import Panel


def write_figures(panels: Sequence[Panel], folder: Path, formats: Sequence[str]) -> list[Path]:
    """One file per figure and format, named after it. Raises MatscaleError if kaleido or a browser is missing."""
    try:
        import kaleido  # noqa: F401 - plotly asks for it only when it is too late to say what to install
    except ImportError:
        raise MatscaleError(
            'Static figures need kaleido, which is not installed: pip install "matscale[figures]". '
            "The page itself does not need it."
        ) from None
    from choreographer.errors import ChromeNotFoundError
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
            "Static figures are drawn by Chrome or Chromium, and there is none on the path. Install one "
            "(apt install chromium), or name it: BROWSER_PATH=/path/to/chrome."
        ) from None
    return paths


def _for_paper(panel: Panel) -> object:
    """White paper, one column wide, a title for whoever finds the file."""
    from plotly.graph_objects import Figure

    fig = Figure(panel.figure)
    fig.update_layout(
        width=640, height=panel.figure.layout.height or 460, paper_bgcolor="white", plot_bgcolor="white",
        title={"text": panel.title, "x": 0.02, "font": {"size": 14}}, margin={"t": 76},
    )  # fmt: skip
    return fig
