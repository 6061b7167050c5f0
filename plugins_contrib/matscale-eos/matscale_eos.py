"""`matscale eos RUN FILE`: the equation of state of a crystal, computed with a trained model.

    E(V) = E0 + 9/16 B0 V0 (η² − 1)² (6 + B' (η² − 1) − 4 η²),   η = (V0 / V)^(1/3)        (Birch & Murnaghan)

The cell is scaled by the same factor in all directions, at fixed fractional coordinates. Two results can be compared
with experiments, and show how well the model describes energies near their minimum: the equilibrium volume V0 and the
bulk modulus B0.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from matscale.plugin import hookimpl

if TYPE_CHECKING:
    from ase import Atoms

API_VERSION = (1, 0)


@dataclass(frozen=True)
class EquationOfState:
    """Result of a fit, and the keys of `--json`. Volumes and energies are those of the whole cell."""

    formula: str
    n_atoms: int
    volumes: list[float]
    """Scanned volumes [Å³], ascending."""
    energies: list[float]
    """Energies that the model predicts at these volumes [eV]."""
    volume: float
    """Equilibrium volume V0 [Å³]."""
    energy: float
    """Energy E0 at equilibrium [eV]."""
    bulk_modulus: float
    """Bulk modulus B0 [GPa]."""
    bulk_modulus_derivative: float
    """Derivative B' = dB/dP of the bulk modulus at V0."""
    residual: float
    """Root mean square of the differences between energies and fit [eV/atom]."""


def scan(atoms: Atoms, calculator: Any, points: int, span: float) -> tuple[list[float], list[float]]:
    """Compute volumes [Å³] and energies [eV] of `points` cells, from 1 − span to 1 + span times that of `atoms`."""
    import numpy as np

    volumes, energies = [], []
    for factor in np.linspace(1 - span, 1 + span, points):
        scaled = atoms.copy()
        scaled.set_cell(atoms.cell.array * factor ** (1 / 3), scale_atoms=True)
        scaled.calc = calculator
        volumes.append(float(scaled.get_volume()))
        energies.append(float(scaled.get_potential_energy()))
    return volumes, energies


def fit(formula: str, n_atoms: int, volumes: list[float], energies: list[float]) -> EquationOfState:
    """Fit the equation of state of Birch and Murnaghan to the energies of a cell.

    Raises MatscaleError if the energies have no minimum within the volumes, or if the curve does not fit them.
    """
    import numpy as np
    from ase.eos import EquationOfState as Curve
    from ase.units import GPa
    from scipy.optimize import OptimizeWarning

    from matscale.plugin import MatscaleError

    where = f"{formula}, {volumes[0]:.4g} to {volumes[-1]:.4g} Å³"
    lowest = int(np.argmin(energies))
    if lowest in (0, len(volumes) - 1):
        towards = "smaller" if lowest == 0 else "larger"
        raise MatscaleError(
            f"{where}: the energy is lowest at the end of the scan, so there is no minimum to fit. Scan further with "
            f"--span, begin with a {towards} cell, or train longer: the model may not know such volumes."
        )
    curve = Curve(volumes, energies, eos="birchmurnaghan")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers on the way to the fit
            warnings.simplefilter("error", OptimizeWarning)
            volume, energy, modulus = curve.fit(warn=False)
    except (RuntimeError, OptimizeWarning) as error:
        raise MatscaleError(f"{where}: Birch-Murnaghan's curve does not fit ({error}). Try a smaller --span.") from None
    if not (volumes[0] < volume < volumes[-1] and modulus > 0):
        raise MatscaleError(
            f"{where}: the fit has V0 = {volume:.4g} Å³ and a bulk modulus of {modulus / GPa:.4g} GPa, which is no "
            "minimum within the scan. Scan other volumes with --span, or train longer."
        )
    differences = np.array(energies) - curve.func(np.array(volumes), *curve.eos_parameters)
    residual = float(np.sqrt(np.mean(differences**2))) / n_atoms
    slope = float(curve.eos_parameters[2])
    found = (float(volume), float(energy), float(modulus / GPa), slope, residual)
    return EquationOfState(formula, n_atoms, volumes, energies, *found)


def read(file: Path) -> Atoms:
    """Read the last structure of a file. Raises DataError unless it is a crystal."""
    from ase.io import read as read_file

    from matscale.plugin import DataError

    try:
        atoms = cast("Atoms", read_file(file, index=-1))  # one structure, for one index
    except Exception as error:  # ASE's readers raise whatever they meet
        raise DataError(f"{file}: ASE cannot read it ({type(error).__name__}: {error}).") from None
    if not (atoms.pbc.all() and atoms.cell.rank == 3):
        raise DataError(
            f"{file}: the structure is periodic in {int(atoms.pbc.sum())} directions. A volume needs three: give a "
            "crystal."
        )
    return atoms


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--points", type=click.IntRange(5), default=11, show_default=True, help="Volumes to scan.")
@click.option(
    "--span",
    type=click.FloatRange(0.01, 0.5),
    default=0.1,
    show_default=True,
    help="How far to scan to both sides, as a share of the volume in FILE.",
)
@click.option("--checkpoint", default="best", show_default=True, metavar="best|last|STEP", help="Which weights.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: eV, Å³, GPa; with the scanned points.")
def eos(run: Path, file: Path, points: int, span: float, checkpoint: str, device: str, as_json: bool) -> None:
    """Fit the equation of state of the last structure in FILE (anything that ASE reads) with the model in RUN.

    Prints volume, energy and bulk modulus at equilibrium, and how well Birch-Murnaghan's curve fits. Refuses if the
    energy has no minimum within the scanned volumes.
    """
    import matscale

    atoms = read(file)
    # In float64: near a minimum energies differ by less than single precision resolves.
    calculator = matscale.calculator(run, checkpoint, device=device, dtype="float64")
    found = fit(atoms.get_chemical_formula(), len(atoms), *scan(atoms, calculator, points, span))
    click.echo(json.dumps(asdict(found), indent=2) if as_json else text(found))


def text(found: EquationOfState) -> str:
    """Format the results as a table for reading."""
    rows = {
        "scanned": f"{len(found.volumes)} volumes, {found.volumes[0]:.2f} to {found.volumes[-1]:.2f} Å³",
        "volume": f"{found.volume:.3f} Å³  ({found.volume / found.n_atoms:.3f} Å³/atom)",
        "energy": f"{found.energy:.4f} eV  ({found.energy / found.n_atoms:.4f} eV/atom)",
        "bulk modulus": f"{found.bulk_modulus:.1f} GPa, derivative {found.bulk_modulus_derivative:.2f}",
        "residual": f"{1e3 * found.residual:.3f} meV/atom",
    }
    return "\n".join([found.formula, *(f"  {name:13} {value}" for name, value in rows.items())])


@hookimpl
def register_commands() -> list[click.Command]:
    return [eos]
