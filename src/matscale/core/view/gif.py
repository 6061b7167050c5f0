"""Animated GIF of a structure: labelled and predicted forces at every stored step, beside their parity plot."""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from numpy.typing import NDArray

from matscale.core.errors import ConfigError
from matscale.core.files import scratch, write_blocks
from matscale.core.report.layout import SERIES
from matscale.core.view.gather import Prediction, Shown, View

FPS = 3
LONGEST = 1.5
"""Length of the longest labelled force [Å]."""
LABEL = "#1f262d"
POINTS = 120.0
"""Diameter of an atom of radius 1 Å in a picture that is 1 Å wide [points]."""


def write_gif(view: View, path: Path) -> int:
    """Write the first structure of a view as a GIF with a frame for each step. Returns the number of steps.

    Several runs are drawn in rows. Raises ConfigError if no run predicts forces, or there is one step only.
    """
    one = view.shown[0]
    names = [model.name for model in view.evaluation.runs]
    steps = sorted({step for name in names for step, p in one.predictions[name].items() if p.forces is not None})
    if len(steps) < 2:
        raise ConfigError(
            f"Row {one.row} has forces at {len(steps)} stored step: a GIF needs several. Keep more checkpoints when "
            "training (--set checkpoint.keep=20), or choose a structure that the run followed with --row: samples.json "
            "of the run lists their rows."
        )
    from matplotlib.animation import FuncAnimation, PillowWriter  # start-up: matplotlib
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.5 * len(names)), dpi=80, layout="constrained")
    axes = [
        (figure.add_subplot(len(names), 2, 2 * k + 1, projection="3d"), figure.add_subplot(len(names), 2, 2 * k + 2))
        for k in range(len(names))
    ]

    def draw(step: int) -> None:
        for k, name in enumerate(names):
            at = max((s for s in one.predictions[name] if s <= step), default=min(one.predictions[name]))
            _structure(axes[k][0], one, one.predictions[name][at], SERIES[k % len(SERIES)])
            _parity(axes[k][1], one, one.predictions[name][at], SERIES[k % len(SERIES)], f"{name}, step {at:,}")

    animation = FuncAnimation(figure, draw, frames=[*steps, *steps[-1:] * FPS], init_func=lambda: None)
    with scratch("gif") as folder:
        animation.save(folder / "view.gif", writer=PillowWriter(fps=FPS))
        write_blocks(path, [(folder / "view.gif").read_bytes()])
    return len(steps)


def _structure(ax: Any, one: Shown, prediction: Prediction, colour: str) -> None:
    """Draw atoms, cell, and the forces as arrows."""
    s = one.structure
    ax.clear()
    ax.set_axis_off()
    ax.set_proj_type("ortho")
    corners = np.array([*s.positions, *(corner for edge in _edges(s.cell) for corner in edge)])
    extent = max(float(np.ptp(corners, axis=0).max()), 2.0)
    colours, sizes = jmol_colors[s.atomic_numbers], (POINTS * covalent_radii[s.atomic_numbers] / extent) ** 2
    ax.scatter(*s.positions.T, s=sizes, c=colours, edgecolors=LABEL, linewidths=0.5, depthshade=False)
    for start, end in _edges(s.cell):
        ax.plot(*np.stack([start, end]).T, color="#808890", linewidth=0.8)
    reference = s.forces if s.forces is not None else prediction.forces
    longest = 0.0 if reference is None else float(np.linalg.norm(reference, axis=1).max())
    for forces, stroke, width in ((s.forces, LABEL, 1.2), (prediction.forces, colour, 2.2)):
        if forces is not None and longest > 0:
            ax.quiver(*s.positions.T, *(forces * LONGEST / longest).T, color=stroke, linewidth=width)
    ax.set_box_aspect(np.maximum(np.ptp(corners, axis=0), 1.0))
    off = prediction.energy - s.energy if s.energy is not None else None
    ax.set_title(s.formula + ("" if off is None else f": energy {1e3 * off / len(s):+.1f} meV/atom"), fontsize=9)


def _parity(ax: Any, one: Shown, prediction: Prediction, colour: str, title: str) -> None:
    """Draw predicted against labelled components of the forces."""
    ax.clear()
    ax.set_title(title, fontsize=9)
    if one.structure.forces is None or prediction.forces is None:
        return
    ax.scatter(
        one.structure.forces.reshape(-1), prediction.forces.reshape(-1), s=16, facecolors="none", edgecolors=colour
    )
    reach = 1.15 * max(float(np.abs(one.structure.forces).max()), 1e-3)
    ax.plot([-reach, reach], [-reach, reach], color="#808890", linewidth=0.8)
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    ax.set_xlabel("labelled force [eV/Å]", fontsize=8)
    ax.set_ylabel("predicted force [eV/Å]", fontsize=8)
    ax.tick_params(labelsize=7)


def _edges(cell: NDArray[np.float64]) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The twelve edges of a cell, as pairs of corners."""
    corners = np.array(list(product((0, 1), repeat=3)))
    return [(a @ cell, b @ cell) for a, b in combinations(corners, 2) if np.abs(a - b).sum() == 1]
