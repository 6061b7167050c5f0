"""Structures that a view shows, with labels and the predictions of every run at every stored step."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.data.structure import Structure, full_to_voigt
from matscale.core.errors import DataError, MatscaleError
from matscale.core.files import open_file
from matscale.core.inference.compare import is_own
from matscale.core.inference.load import load
from matscale.core.inference.predict import floating
from matscale.core.inference.side_by_side import Evaluation, Model
from matscale.core.inference.survey import source_names
from matscale.core.model.potential import Potential
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.files import GEOMETRIES

RANKINGS = ("forces", "energy", "stress")
STEPS = 40
"""Largest number of steps at which the predictions for a structure are shown."""
FOLLOWED = 4
"""Largest number of structures whose predictions the run itself saved at every validation."""
CHUNK = 16


@dataclass(frozen=True)
class Prediction:
    """Prediction for one structure: total energy [eV], forces [n_atoms, 3] eV/Å, stress [6] eV/Å³ in Voigt order."""

    energy: float
    forces: NDArray[np.float64] | None
    stress: NDArray[np.float64] | None


@dataclass
class Shown:
    """Structure of a view, with the reason to show it and its predictions by run and step."""

    row: int
    why: str
    structure: Structure
    source: str
    predictions: dict[str, dict[int, Prediction]] = field(default_factory=dict)


@dataclass(frozen=True)
class View:
    """All that a view shows: errors, and some of the structures with their predictions."""

    evaluation: Evaluation
    shown: tuple[Shown, ...]
    data: str = ""
    """Name of the data, as the user gave it"""
    notes: tuple[str, ...] = ()
    """Texts on checkpoints that cannot be shown"""


def gather(
    evaluation: Evaluation,
    n_structures: int = 60,
    *,
    seed: int = 0,
    rows: Sequence[int] = (),
    averaged: bool | None = None,
    data: str | None = None,
    progress: Reporter = SILENT,
) -> View:
    """Choose structures of an evaluation, and predict them with every stored checkpoint of its runs.

    Structures at `rows` come first. Then come those with the largest errors, up to half of `n_structures`, and those
    that a run followed in training. The rest is drawn at random. `averaged` is explained in `load`; `data` is the name
    of the data in the page.
    """
    chosen = choose(evaluation, n_structures, seed, rows)
    dataset, names = evaluation.dataset, source_names(evaluation.dataset)
    shown = [Shown(row, why, dataset.structure(row), names[int(dataset.sources[row])]) for row, why in chosen.items()]
    notes: list[str] = []
    for model in evaluation.runs:
        assert model.run is not None
        assert model.step is not None
        assert model.potential is not None
        others = [step for step in model.run.checkpoints() if step != model.step]
        kept = thinned(others, STEPS)
        for k, step in enumerate([model.step, *kept]):
            progress.stage(f"Checkpoints of {model.name}", k, 1 + len(kept))
            try:
                potential = model.potential if step == model.step else _like(model, step, averaged)
            except MatscaleError as error:
                notes.append(f"Step {step} of {model.name} is not shown: {error}")
                continue
            for one, prediction in zip(shown, predicted(potential, evaluation, [one.row for one in shown])):
                one.predictions.setdefault(model.name, {})[step] = prediction
        if averaged is not False:
            _add_followed(model, evaluation, shown)
    return View(evaluation, tuple(shown), data or str(dataset.path), tuple(notes))


def _like(model: Model, step: int, averaged: bool | None) -> Potential:
    """Potential of another step, with the device, the precision and the treatment of the net force of `model`."""
    assert model.run is not None
    assert model.potential is not None
    place, kind = model.potential.references.device, floating(model.potential)
    return load(
        model.run, step, device=place, dtype=kind, zero_net_force=model.potential.zero_net_force, averaged=averaged
    )


def choose(evaluation: Evaluation, n_structures: int, seed: int, rows: Sequence[int] = ()) -> dict[int, str]:
    """Rows of the structures to show, each with the reason, in the order of the page.

    Raises DataError for a row of `rows` on which the runs are not measured.
    """
    known = set(evaluation.rows.tolist())
    if foreign := [row for row in rows if row not in known]:
        raise DataError(
            f"{evaluation.dataset.path}: row {foreign[0]} is not among the {len(known):,} structures that are "
            "measured. Choose another row, or pass --split all."
        )
    several = len(evaluation.runs) > 1
    chosen = dict.fromkeys(rows, "chosen")
    lists = [
        [
            (bad.row, f"large error of {ranking}{f' of {model.name}' if several else ''}")
            for bad in model.survey.worst(ranking)
        ]
        for model in evaluation.runs
        for ranking in RANKINGS
    ]
    for row, why in filter(None, chain.from_iterable(zip_longest(*lists))):
        if len(chosen) >= max(n_structures // 2, 1):
            break
        chosen.setdefault(row, why)
    for row in sorted({row for model in evaluation.runs for row in _followed(model, evaluation)} & known):
        if len(chosen) < n_structures:
            chosen.setdefault(row, "followed in training")
    rest = np.setdiff1d(evaluation.rows, [*chosen])
    n_random = min(max(n_structures - len(chosen), 0), len(rest))
    drawn = np.random.default_rng(seed).choice(rest, n_random, replace=False)
    return chosen | dict.fromkeys(sorted(drawn.tolist()), "random")


def predicted(potential: Potential, evaluation: Evaluation, rows: Sequence[int]) -> Iterator[Prediction]:
    """Predict structures of the dataset of an evaluation."""
    for start in range(0, len(rows), CHUNK):
        batch = evaluation.dataset.batch(rows[start : start + CHUNK], potential.graph, floating(potential))
        with torch.no_grad():
            outputs = potential(batch.to(potential.references.device)).detach()
        counts, has_volume = batch.atoms_per_structure.tolist(), batch.has_volume().tolist()
        forces = None if outputs.forces is None else outputs.forces.double().cpu().split(counts)
        for k, energy in enumerate(outputs.energy.tolist()):
            stress = None
            if outputs.stress is not None and has_volume[k]:
                stress = full_to_voigt(outputs.stress[k].double().cpu().numpy())
            yield Prediction(energy, None if forces is None else forces[k].numpy(), stress)


def _followed(model: Model, evaluation: Evaluation) -> list[int]:
    """Rows of the structures whose predictions the run saved at every validation; empty if it had another dataset."""
    assert model.run is not None
    path = model.run.path / GEOMETRIES
    if not is_own(model.run, evaluation.dataset) or not path.exists():
        return []
    with open_file(path) as file:
        try:
            return [int(one["index"]) for one in json.load(file)][:FOLLOWED]
        except (ValueError, KeyError, TypeError):  # a damaged record of the training shows nothing
            return []


def _add_followed(model: Model, evaluation: Evaluation, shown: Sequence[Shown]) -> None:
    """Add the predictions that the run saved during training, at each validation."""
    assert model.run is not None
    by_row = {one.row: one for one in shown if one.row in _followed(model, evaluation)}
    if not by_row:
        return
    steps = [int(row["step"]) for row in model.run.samples]
    kept = {*thinned(steps, STEPS)}
    for row in model.run.samples:
        if row["step"] not in kept:
            continue
        for told in row["predictions"]:
            if (one := by_row.get(told["index"])) is not None:
                one.predictions.setdefault(model.name, {}).setdefault(int(row["step"]), _told(told))


def _told(told: dict[str, Any]) -> Prediction:
    forces, stress = (None if told[key] is None else np.array(told[key], dtype=float) for key in ("forces", "stress"))
    return Prediction(float(told["energy"]), forces, None if stress is None else full_to_voigt(stress))


def thinned(steps: Sequence[int], n: int) -> list[int]:
    """At most `n` of the steps, evenly chosen, with the first and the last.

    >>> thinned([1, 2, 3, 4, 5], 3)
    [1, 3, 5]
    """
    if len(steps) <= n:
        return list(steps)
    return [steps[k] for k in np.unique(np.linspace(0, len(steps) - 1, n).round().astype(int))]
