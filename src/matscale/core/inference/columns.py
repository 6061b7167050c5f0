"""Columns of tables of errors: the metric, the factor to the unit of the column, and the number of digits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

_FORMS = {
    "loss": (1.0, "{:.3f}"),
    "energy_mae": (1e3, "{:.1f}"),
    "energy_rmse": (1e3, "{:.1f}"),
    "forces_mae": (1e3, "{:.1f}"),
    "forces_rmse": (1e3, "{:.1f}"),
    "forces_cos": (1.0, "{:.3f}"),
    "stress_mae": (1e3, "{:.2f}"),
    "stress_isotropic_mae": (1e3, "{:.2f}"),
    "stress_anisotropic_mae": (1e3, "{:.2f}"),
}
"""Factor from eV units to meV units, and format, by metric."""


class Column(NamedTuple):
    """Column of a table: key of a metric in eV units, factor to the unit of the column, format."""

    key: str
    factor: float
    form: str

    def cell(self, metrics: Mapping[str, float]) -> str:
        """Format the metric of a model in the unit of the column; a dash if it was not measured or is not finite.

        >>> forces = columns({"forces MAE [meV/Å]": "forces_mae"})["forces MAE [meV/Å]"]
        >>> forces.cell({"forces_mae": 0.0321}), forces.cell({})
        ('32.1', '-')
        """
        value = metrics.get(self.key)
        return "-" if value is None or not math.isfinite(value) else self.form.format(value * self.factor)


def columns(headed: Mapping[str, str]) -> dict[str, Column]:
    """Columns in meV, meV/Å and meV/Å³, or without a unit, by heading; `headed` has the metric of each heading."""
    return {heading: Column(key, *_FORMS[key]) for heading, key in headed.items()}
