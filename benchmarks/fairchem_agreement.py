"""Whether models of fairchem predict the same here, and models of matscale the same there.

    python benchmarks/fairchem_agreement.py --python PYTHON [--arch eqv2] [--models small,old,S]
    python benchmarks/fairchem_agreement.py --python PYTHON --python2 PYTHON2 --arch schnet,gemnet,escaip

PYTHON is an interpreter with fairchem-core 1.10 (`fairchem_side.py` says what else it needs), PYTHON2 one with
fairchem-core 2 (`fairchem2_side.py`). For each model fairchem writes checkpoints, which are imported and compared with
its own predictions; of EquiformerV2 the imported runs, and a new one of matscale, are exported and compared likewise.
float32, five cells of Al, Cu, Ni and Pd that no model has seen. Prints the largest absolute differences, and the
largest value of each quantity. docs/fairchem.md has the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

import matscale
from matscale.core.fairchem.export import export_run
from matscale.core.fairchem.run import import_run
from matscale.core.hosting.host import host
from matscale.core.inference.imported import save
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential, Scales
from matscale.core.runs.record import Run

SIDE, SIDE2 = (Path(__file__).with_name(name) for name in ("fairchem_side.py", "fairchem2_side.py"))
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


MODELS = {
    "eqv2": ("small", "old", "S"),
    "schnet": ("schnet",),
    "gemnet": ("gemnet-t", "gemnet-dt", "gemnet-dt-hydra", "gemnet-oc", "gemnet-oc-hydra"),
    "escaip": ("escaip-direct", "escaip-gradient"),
}


class Comparison:
    """Comparison of the predictions of both sides, in a folder of its own."""

    def __init__(self, folder: Path, python: str, python2: str) -> None:
        self.folder, self.pythons = folder, {SIDE: python, SIDE2: python2}
        self.runs: dict[Path, dict[str, tuple[str, Path | Run]]] = {SIDE: {}, SIDE2: {}}
        """Script -> checkpoint as it is told -> (row of the table, run)."""
        write(folder / "cells.traj", cells())

    def side(self, script: Path, *words: object) -> None:
        command = [self.pythons[script], str(script), *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")

    def add(self, model: str) -> None:
        """Both kinds of weights of a model that fairchem trains; of EquiformerV2 exported again too."""
        if model.startswith("escaip"):
            self.side(SIDE2, "write", model, self.folder / model)
            for word, weights in (("raw:", "raw"), ("", "ema")):
                path = self.folder / model / "inference_ckpt.pt"
                self._imported(SIDE2, model, path, weights, word)
            return
        self.side(SIDE, "train", model, self.folder / model)
        for file, weights in (("checkpoint.pt", "raw"), ("best_checkpoint.pt", "ema")):
            row, run = self._imported(SIDE, model, self.folder / model / file, weights)
            if model in MODELS["eqv2"]:
                back = self.folder / f"{model}-{weights}-back.pt"
                export_run(run, back)
                self.runs[SIDE][str(back)] = (f"exported again | {row}", run)
        self._check_list(model)

    def _imported(self, script: Path, model: str, path: Path, weights: Any, word: str = "") -> tuple[str, Run]:
        run, imported = import_run(path, self.folder / f"{model}-{weights}", weights)
        row = f"{model}, {sum(p.numel() for p in imported.potential.model.parameters()):,} | {weights}"
        self.runs[script][word + str(path)] = (f"imported | {row}", run)
        return row, run

    def _check_list(self, model: str) -> None:
        """The average in `checkpoint.pt` has no names: it has to be that of `best_checkpoint.pt`, which has."""
        run, _ = import_run(self.folder / model / "checkpoint.pt", self.folder / f"{model}-listed", "ema")
        here, there = (ours(each) for each in (run, self.folder / f"{model}-ema"))
        if any((a[name] != b[name]).any() for a, b in zip(here, there) for name in a):
            print(f"{model}: the listed average differs from the named one (its last step was not its best?)")

    def rows(self) -> Iterator[str]:
        for script, compared in self.runs.items():
            if compared:
                self.side(script, "predict", self.folder / "cells.traj", self.folder / "theirs.json", *compared)
                theirs = json.loads((self.folder / "theirs.json").read_text())
                for path, (row, run) in compared.items():
                    yield f"| {row} | {difference(ours(run), theirs[path])} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default="python", help="interpreter with fairchem-core 1.10")
    parser.add_argument("--python2", default="python", help="interpreter with fairchem-core 2, for escaip")
    parser.add_argument("--arch", default="eqv2", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--models", help="of those of --arch; all by default")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        comparison = Comparison(Path(temporary), arguments.python, arguments.python2)
        chosen = [model for arch in arguments.arch.split(",") for model in MODELS[arch]]
        for model in arguments.models.split(",") if arguments.models else chosen:
            comparison.add(model)
        if "eqv2" in arguments.arch.split(","):
            run = own_run(comparison.folder / "own")
            export_run(run, comparison.folder / "own.pt")
            row = f"exported | matscale, {run.info['parameters']['total']:,} | new"
            comparison.runs[SIDE][str(comparison.folder / "own.pt")] = (row, run)
        print(
            "| way | model, parameters | weights | energy, eV | forces, eV/Å | stress, eV/Å³ |",
            "|---" * 6 + "|",
            *comparison.rows(),
            sep="\n",
        )


if __name__ == "__main__":
    main()
