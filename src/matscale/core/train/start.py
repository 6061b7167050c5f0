"""Fine-tuning: a run that begins with the model of another one.

The new run predicts in step 0 what the other one does: it takes its weights, the scales that they were trained in, its
element references, and what its model was told of the data when it was built. A run that was pre-trained gives weights
alone: its scales were those of another quantity, and its head for that is left behind. References of elements that the
other run has not seen, which only `partial` allows, are those that the new data give.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from matscale.core.architecture import DatasetInfo
from matscale.core.data.references import with_values
from matscale.core.errors import ConfigError
from matscale.core.potential import Potential, Scales
from matscale.core.train.config import StartConfig
from matscale.core.train.record import Run
from matscale.core.train.setup import Setup

LISTED = 12
"""Names of weights in a message; run.json has all."""


@dataclass(frozen=True)
class Source:
    """The run that another one begins with."""

    run: Run
    step: int
    potential: Potential
    partial: bool

    @classmethod
    def of(cls, config: StartConfig) -> Source | None:
        """None for a run with new weights, and for a branch. Raises what `matscale.load` raises."""
        if config.run is None or config.branch:
            return None
        from matscale.core.use import resolve_step, restored

        run = Run.open(config.run)
        step = resolve_step(run, config.checkpoint)
        return cls(run, step, restored(run, step).eval().requires_grad_(False), config.partial)

    @property
    def is_pretrained(self) -> bool:
        """Whether it learned something else than energies, forces and stress."""
        return self.run.config.pretrain is not None

    def continued(self, setup: Setup) -> Setup:
        """`setup` with the other run's references, scales and knowledge of the data; the last alone if pre-trained.

        Raises ConfigError that names elements which the other run has not seen, unless `partial`.
        """
        from ase.data import chemical_symbols

        known = set(self.potential.elements)
        new = [z for z in setup.info.elements if z not in known]
        if new and not self.partial:
            names = ", ".join(chemical_symbols[z] for z in new)
            raise ConfigError(
                f"{self.run.path}: was not trained on {names}, which the new data contain. With --partial it learns "
                "them from nothing, beside the others."
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
        """The potential of a continued `setup` with the other run's weights. Raises ConfigError for another model."""
        potential = setup.potential()
        given, own = self.potential.model.state_dict(), potential.model.state_dict()
        unlike = differing(own, given)
        if unlike and not self.partial:
            raise ConfigError(
                f"{self.run.path}: its model is another one: {_listed(unlike)}. Leave out --arch, --size, --params and "
                "architecture.config to take its own configuration, or take what fits with --partial."
            )
        potential.model.load_state_dict({**own, **{name: given[name] for name in own if name not in unlike}})
        if unlike:
            say(f"Not taken from {self.run.path}: {_listed(unlike)}.")
        return potential

    def facts(self, potential: Potential) -> dict[str, Any]:
        """For run.json."""
        unlike = differing(potential.model.state_dict(), self.potential.model.state_dict())
        info = self.run.info
        earlier = (info.get("start") or {}).get("flops", 0.0)
        known = "imported" not in info and earlier is not None
        spent = {"flops": float(info.get("flops") or 0.0) + earlier if known else None}
        pretrain = {"pretrain": self.run.config.pretrain.task} if self.run.config.pretrain else {}
        return {"run": str(self.run.path), "step": self.step, "not_taken": unlike, **spent, **pretrain}


def differing(own: dict[str, Tensor], given: dict[str, Tensor]) -> dict[str, str]:
    """Name of a weight -> why it is not taken, for all that are in one of the two models only or differ in shape."""
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
