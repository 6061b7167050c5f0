"""Fine-tuning: a run that starts from the model of another run.

At step 0 the new run predicts the same as the other run: it takes over weights, scales, element references, and the
facts about the data with which the model was built. If the new data come from another functional, which shifts the
energy of every atom, the references are corrected: see `Source.corrected`. From a pre-trained run only the weights are
used, without the head of the pre-training task; the scales belong to another quantity. Elements that the other run has
not seen are allowed with `partial` only; their references are fitted to the new data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from matscale.core.data.references import evenly, fit_references, with_values
from matscale.core.errors import ConfigError
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.potential import Potential, Scales
from matscale.core.runs.config import StartConfig
from matscale.core.runs.record import Run
from matscale.core.runs.trained_potential import resolve_step, restored
from matscale.core.train.evaluation import tally
from matscale.core.train.processes.world import World
from matscale.core.train.setup import Setup

SAMPLE = 4096
"""Number of training structures to which a correction of the references is fitted."""
WORSE, NOTABLE = 1.5, 0.05
"""Thresholds for a correction of the references: ratio and difference [eV/atom] of the errors without and with it."""
SHOWN = (
    ("energy_mae", "energy", "meV/atom"),
    ("forces_mae", "forces", "meV/Å"),
    ("stress_mae", "stress", "meV/Å³"),
)
LISTED = 12
"""Number of names of weights in a message; run.json has all."""


@dataclass(frozen=True)
class Source:
    """Run whose model another run starts from."""

    run: Run
    step: int
    potential: Potential
    partial: bool

    @classmethod
    def of(cls, config: StartConfig) -> Source | None:
        """Find the source of a run; None for new weights and for a branch.

        Raises the same errors as `matscale.load`.
        """
        if config.run is None or config.branch:
            return None
        run = Run.open(config.run)
        step = resolve_step(run, config.checkpoint)
        return cls(run, step, restored(run, step).eval().requires_grad_(False), config.partial)

    @property
    def is_pretrained(self) -> bool:
        """Whether the source was pre-trained rather than trained on energies, forces and stress."""
        return self.run.config.pretrain is not None

    def continued(self, setup: Setup) -> Setup:
        """Replace the references, scales and dataset facts of `setup` by those of the other run.

        If the other run was pre-trained, only the facts are replaced. The elements are those of the new data. Without
        `partial`, raises ConfigError for elements that the other run has not seen.
        """
        known = set(self.potential.elements)
        new = [z for z in setup.info.elements if z not in known]
        if new and not self.partial:
            names = ", ".join(chemical_symbols[z] for z in new)
            raise ConfigError(
                f"{self.run.path}: was not trained on {names}, which the new data contain. With --partial, "
                "the model learns these elements from the new data alone."
            )
        info = replace(DatasetInfo.parse(self.run.info["dataset_info"]), elements=setup.info.elements)
        if self.is_pretrained:
            return replace(setup, info=info)
        values = self.potential.references.numpy().copy()
        values[new] = setup.references.values[new]
        energy, forces, stress = self.potential.scales.tolist()
        return replace(
            setup,
            references=with_values(values, setup.dataset, setup.train),
            scales=Scales(energy, forces, stress),
            info=info,
        )

    def begin(self, setup: Setup, say: Callable[[str], None]) -> Potential:
        """Make a potential with the weights of the other run; `setup` is the result of `continued`.

        Without `partial`, raises ConfigError if the two models differ.
        """
        potential = setup.potential()
        given, own = self.potential.model.state_dict(), potential.model.state_dict()
        unlike = differing(own, given)
        if unlike and not self.partial:
            raise ConfigError(
                f"{self.run.path}: its model differs from the new one: {_listed(unlike)}. Leave out --arch, --size, "
                "--params and architecture.config to use its configuration, or pass --partial to use only the weights "
                "that fit."
            )
        potential.model.load_state_dict({**own, **{name: given[name] for name in own if name not in unlike}})
        if unlike:
            say(f"Weights not taken from {self.run.path}: {_listed(unlike)}.")
        return potential

    def corrected(
        self, setup: Setup, potential: Potential, device: torch.device, world: World, say: Callable[[str], None]
    ) -> Setup:
        """Correct the element references of `setup` and `potential` for the new data, and report the errors of step 0.

        The correction is a shift per element, as between two functionals, fitted to the energy errors of the potential
        on up to `SAMPLE` training structures. It is made if `start.references` is `refit`. By default it is made under
        two conditions: it reduces the errors on held-out structures, and references fitted to the new data have smaller
        errors than those of the other run. Both gains must exceed the ratio `WORSE` and the difference `NOTABLE`.
        """
        choice = setup.config.start.references
        if self.is_pretrained or not setup.dataset.has("energy")[setup.train].any():
            return setup
        rows = evenly(setup.train, SAMPLE)
        kept = setup.references
        left = setup.dataset.energies(rows) - _energies(potential, setup, rows, device)
        shift = fit_references(setup.dataset, rows, left)
        per_atom = left / setup.dataset.n_atoms[rows]
        before = float(np.sqrt(np.nanmean(per_atom**2)))
        after = shift.residual_rms if shift.held_out is None else shift.held_out.rms
        fresh = fit_references(setup.dataset, rows).residual_rms
        alone = with_values(kept.values, setup.dataset, rows).residual_rms
        clear = all(a > WORSE * b and a - b > NOTABLE for a, b in ((before, after), (alone, fresh)))
        refit = choice == "refit" or (choice is None and clear)
        errors = _errors(potential, setup, device, world)
        if refit:
            fitted = with_values(kept.values + shift.values, setup.dataset, setup.train)
            setup = replace(setup, references=fitted)
            potential.references.copy_(torch.from_numpy(fitted.values))
            corrected = _errors(potential, setup, device, world)
            say(
                f"The element references of {self.run.path} were corrected: its predictions on the training part are "
                f"off by {before:.3g} eV/atom (rms) without the correction, and by {after:.3g} with it. "
                "To keep the references: --references keep"
            )
            say(f"Step 0, before the correction: {errors}; after: {corrected}")
        else:
            if clear:
                say(
                    f"Warning: with the element references of {self.run.path}, predictions on the training part are "
                    f"off by {before:.3g} eV/atom (rms); with corrected references, they would be off by {after:.3g}. "
                    "To correct the references: --references refit"
                )
            say(f"Step 0, with the element references of {self.run.path}: {errors}")
        return setup

    def resumed(self, setup: Setup, references: Tensor) -> Setup:
        """Take the element references from a checkpoint of the new run, which corrected or kept them at its start."""
        if self.is_pretrained:
            return setup
        return replace(setup, references=with_values(references.numpy(), setup.dataset, setup.train))

    def facts(self, potential: Potential) -> dict[str, Any]:
        """Facts about the run from which this one starts, for run.json."""
        unlike = differing(potential.model.state_dict(), self.potential.model.state_dict())
        info = self.run.info
        earlier = (info.get("start") or {}).get("flops", 0.0)
        known = "imported" not in info and earlier is not None
        spent = {"flops": float(info.get("flops") or 0.0) + earlier if known else None}
        pretrain = {"pretrain": self.run.config.pretrain.task} if self.run.config.pretrain else {}
        return {"run": str(self.run.path), "step": self.step, "not_taken": unlike, **spent, **pretrain}


def _energies(potential: Potential, setup: Setup, rows: NDArray[np.int64], device: torch.device) -> NDArray[np.float64]:
    potential.eval()
    found = []
    for start in range(0, len(rows), setup.config.evaluation.structures):
        part = rows[start : start + setup.config.evaluation.structures]
        batch = setup.dataset.batch(part, setup.graph, dtype=setup.dtype).to(device)
        with torch.no_grad():
            found.append(potential(batch).energy.detach().double().cpu().numpy())
    potential.train()
    return np.concatenate(found)


def _errors(potential: Potential, setup: Setup, device: torch.device, world: World) -> str:
    """Errors on the validation part over all processes, as text."""
    batches = (batch.to(device) for batch in setup.validation_loader().epoch(0, world.rank, world.size))
    values = tally(potential, batches).over(world, device).values()
    shown = [
        f"{name} {1e3 * values[key]:.4g} {unit}" for key, name, unit in SHOWN if np.isfinite(values.get(key, np.nan))
    ]
    return ", ".join(shown)


def differing(own: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, str]:
    """Find weights that only one of two models has, or whose shapes differ. Returns the difference by name."""
    unlike = {name: "only in the other run" for name in given if name not in own}
    for name, value in own.items():
        if name not in given:
            unlike[name] = "new"
        elif value.shape != given[name].shape:
            unlike[name] = f"{list(given[name].shape)} there, {list(value.shape)} here"
    return unlike


def _listed(unlike: dict[str, str]) -> str:
    names = [f"{name} ({why})" for name, why in unlike.items()]
    rest = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + rest


N_BATCHES = 4


def prepare_model(potential: Potential, setup: Setup, device: torch.device) -> None:
    """Call the model's `prepare`, if it has one, with the first batches of the run in a single process.

    `prepare(batches)` measures what a model needs before its first step, such as factors that preserve the variance of
    its activations. It is called once for a run and keeps its results in buffers, which are saved with the weights.
    Resumed runs and branches read them from the checkpoint. A run that starts from the weights of another run calls
    `prepare`, too, which should keep values that are set already.
    """
    prepare = getattr(potential.model, "prepare", None)
    if prepare is not None:
        batches = islice(setup.training_loader().epoch(0), N_BATCHES)
        with torch.no_grad():
            prepare([batch.to(device) for batch in batches])
