"""Whether models of fairchem predict the same here, and models of matscale the same there.

    python benchmarks/fairchem_agreement.py --python PYTHON [--models small,old,S]

PYTHON is an interpreter with fairchem-core 1.10 (`fairchem_side.py` says what else it needs). For each model fairchem's
trainer writes checkpoints, which are imported and compared with fairchem's calculator; the imported runs, and a new one
of matscale, are exported and compared likewise. float32, five cells of Al, Cu, Ni and Pd that no model has
seen. Prints the largest absolute differences, and the largest value of each quantity. docs/eqv2.md has the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

import matscale
from matscale.core.architecture import DatasetInfo
from matscale.core.import_fairchem.run import import_run
from matscale.core.imported import save
from matscale.core.manager import host
from matscale.core.potential import Potential, Scales
from matscale.core.train.record import Run
from matscale.plugins.eqv2.export import export_run

SIDE = Path(__file__).with_name("fairchem_side.py")
QUANTITIES = ("energy", "forces", "stress")


def cells() -> list[Atoms]:
    rng, made = np.random.default_rng(7), []
    for metal, other in zip(["Al", "Cu", "Ni", "Pd", "Cu"], [28, 13, 46, 29, 46]):
        atoms = bulk(metal, "fcc", a=3.9, cubic=True)
        atoms.numbers[1] = other
        atoms.rattle(0.15, rng=rng)
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.05 * rng.standard_normal((3, 3))), scale_atoms=True)
        made.append(atoms)
    return made


def ours(run: Path | Run) -> list[dict[str, np.ndarray]]:
    calculator, found = matscale.calculator(run), []
    for atoms in cells():
        atoms.calc = calculator
        names = [name for name in QUANTITIES if name in calculator.implemented_properties]
        found.append({name: np.asarray(calculator.get_property(name, atoms)) for name in names})
    return found


def own_run(folder: Path) -> Run:
    """An untrained model of matscale with scales and references that are none of fairchem's."""
    architecture = host().architecture("eqv2")
    config = architecture.config.model_validate({**architecture.ladder(100_000).plain(), "stress_head": "rank2"})
    info = DatasetInfo((13, 28, 29, 46), 4.0, 20.0)
    references = torch.zeros(119, dtype=torch.float64)
    references[list(info.elements)] = torch.tensor([-3.7, -5.5, -4.1, -5.2], dtype=torch.float64)
    potential = Potential.of(architecture, config, info, 0, references, Scales(0.7, 1.9, 0.05))
    return save(folder, "eqv2", config, info, potential, {"format": "made by benchmarks/fairchem_agreement.py"})


def difference(here: Iterable[dict[str, Any]], there: Iterable[dict[str, Any]]) -> str:
    """Cells of the table: largest difference, of the largest value."""
    pairs = list(zip(here, there))
    shown = []
    for name in QUANTITIES:
        if name not in pairs[0][1]:
            shown.append("none")
            continue
        worst = max(float(np.abs(a[name] - np.asarray(b[name])).max()) for a, b in pairs)
        largest = max(float(np.abs(np.asarray(b[name])).max()) for _, b in pairs)
        shown.append(f"{worst:.0e} of {largest:.2g}")
    return " | ".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True, help="interpreter with fairchem-core 1.10")
    parser.add_argument("--models", default="small,old,S", help="of small, old, S")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write(folder / "cells.traj", cells())

        def side(*words: object) -> None:
            command = [arguments.python, str(SIDE), *map(str, words)]
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")

        compared: dict[str, tuple[str, Path | Run]] = {}  # checkpoint -> (row of the table, run)
        for model in arguments.models.split(","):
            side("train", model, folder / model)
            for file, weights in (("checkpoint.pt", "raw"), ("best_checkpoint.pt", "ema")):
                run, imported = import_run(folder / model / file, folder / f"{model}-{weights}", weights)
                back = folder / f"{model}-{weights}-back.pt"
                export_run(run, back)
                row = f"{model}, {sum(p.numel() for p in imported.potential.model.parameters()):,} | {weights}"
                compared[str(folder / model / file)] = (f"imported | {row}", run)
                compared[str(back)] = (f"exported again | {row}", run)
        run = own_run(folder / "own")
        export_run(run, folder / "own.pt")
        compared[str(folder / "own.pt")] = (f"exported | matscale, {run.info['parameters']['total']:,} | new", run)
        side("predict", folder / "cells.traj", folder / "theirs.json", *compared)
        theirs = json.loads((folder / "theirs.json").read_text())
        print(
            "| way | model, parameters | weights | energy, eV | forces, eV/Å | stress, eV/Å³ |",
            "|---" * 6 + "|",
            sep="\n",
        )
        for path, (row, run) in compared.items():
            print(f"| {row} | {difference(ours(run), theirs[path])} |")


if __name__ == "__main__":
    main()
