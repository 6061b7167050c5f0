"""`matscale data refs`: fit element reference energies to a dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from matscale.cli.data.pack import isolated, resolve
from matscale.cli.text import aligned

if TYPE_CHECKING:
    from matscale.core.data.references import References
    from matscale.core.data.store.manifest import Manifest


@click.command()
@click.argument("dataset", metavar="DIR")
@click.option("--validation", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=None,
              help="Fit on the training part of this split only, as training does.  [default: all]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the split.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, which `References.from_json` reads.")
def refs(dataset: str, validation: float | None, seed: int, as_json: bool) -> None:
    """Fit element reference energies to the dataset DIR, and print how well they predict held-out structures."""
    import numpy as np  # start-up: torch

    from matscale.core.data.references import fit_references
    from matscale.core.data.split import split
    from matscale.core.data.store.packed import PackedDataset

    opened = PackedDataset.open(resolve(dataset))
    indices = np.arange(len(opened)) if validation is None else split(opened, validation, seed).train
    fitted = fit_references(opened, indices)
    click.echo(fitted.to_json() if as_json else _reference_table(fitted, opened.manifest))


def _reference_table(fitted: References, manifest: Manifest) -> str:
    from ase.data import atomic_numbers, chemical_symbols  # start-up: ase

    rows = [("element", "Z", "eV/atom", "atoms in dataset")]
    for z in fitted.elements:
        symbol = chemical_symbols[z]
        rows.append((symbol, str(z), f"{fitted.values[z]:.6f}", f"{manifest.elements.get(symbol, 0):,}"))
    lines = [
        aligned(rows, right=(1, 2, 3)),
        f"fitted on {fitted.n_structures:,} structures; residual: {1000 * fitted.residual_rms:.1f} meV/atom (rms)",
        *fitted.judged(),
        f"rank {fitted.rank} of {len(fitted.elements)} elements"
        + (": only sums over compositions like these are determined" if fitted.rank < len(fitted.elements) else ""),
    ]
    unseen = fitted.unseen(atomic_numbers[symbol] for symbol in manifest.elements)
    if manifest.isolated_atoms:
        lines.append(isolated(manifest))
    if unseen:
        lines.append(f"not seen, reference 0: {' '.join(chemical_symbols[z] for z in unseen)}")
    return "\n".join(lines)
