"""One optimizer step (forward, objective, backward, clipping, AdamW, weight average), and the state for checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.runs.checkpoint import Checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.train.compute import autocast, scaler_of
from matscale.core.train.loss import Objective
from matscale.core.train.memory import memory_for
from matscale.core.train.optimizer.average import Average
from matscale.core.train.optimizer.optim import adamw, load_optimizer_tensors, optimizer_tensors, set_lr
from matscale.core.train.processes.partial_objective import PartialObjective
from matscale.core.train.processes.sharding import gathered, placed, whole
from matscale.core.train.processes.world import World


@dataclass(frozen=True)
class Gradient:
    """Result of the forward and backward pass of one step. The gradient itself is stored in the parameters."""

    objective: float
    norm: float
    is_finite: bool
    seen: list[tuple[Outputs, AtomicBatch]]
    """Predictions of this process with their batches."""


class Learner:
    """Potential with its objective and optimizer."""

    def __init__(
        self, potential: Potential, config: TrainConfig, objective: Objective, device: torch.device, world: World
    ) -> None:
        self.config, self.objective, self.device, self.world = config, objective, device, world
        self.potential = potential.to(device).train()
        if not any(p.requires_grad for p in potential.parameters()):
            raise ConfigError(f"{config.architecture.name}: the model has no parameters that can be trained.")
        self.scaler = scaler_of(config.compute, device)
        if config.compute.compile:
            self._compile()
        part = PartialObjective(self.potential, objective, self.predict, world.size > 1)
        self.replica = world.replicated(part, config.compute.sharding == "state")
        self.parameters = [p for p in potential.parameters() if p.requires_grad]
        self.optimizer = adamw(potential, config.optimizer)
        # Of the weights that all processes have now.
        self.average = Average(potential, config.optimizer.ema) if config.optimizer.ema else None

    def _compile(self) -> None:
        if self.potential.derive:
            raise ConfigError(
                "compute.compile = true: training on forces by derivative needs second derivatives, which "
                "torch.compile does not support. Leave compute.compile out for this architecture."
            )
        self.potential.model.compile(dynamic=True)  # in place, so that the names of the weights stay

    # A step -----------------------------------------------------------------------------------------------------------

    def gradient(self, batches: Sequence[AtomicBatch], counts: Mapping[str, float]) -> Gradient:
        """Compute the gradient of the objective on the batches of all processes. This process has the part `batches`.

        `counts` are the numbers of labelled items in the batches of all processes, by term of the objective.
        """
        self.optimizer.zero_grad(set_to_none=True)
        objective, seen = torch.zeros((), dtype=torch.float64, device=self.device), []
        # A process without structures takes part in the sum of gradients.
        for k, batch in enumerate(batches or [None], start=1):
            memory = memory_for(batch, self.config.batch)
            with memory, self.world.exchanging(self.replica, is_last=k >= len(batches)):
                part, outputs = self.replica(batch, counts)
                if part is not None:  # there is none if no structure of the batch has a label
                    self.scaler.scale(part).backward()
                    objective += part.detach()
            if batch is not None:
                seen.append((outputs, batch))
        with self.world.summing():
            if self.scaler.is_enabled():  # after the sum: all processes must see the same overflow
                self.scaler.unscale_(self.optimizer)
            norm = self._norm()
        value = float(self.world.sum(objective))
        # A scaled fp16 gradient may overflow: the scaler then skips the step itself and reduces its scale. Once the
        # scale is at its lowest, an overflow is an error of the model.
        overflowed = self.scaler.is_enabled() and self.scaler.get_scale() > 1
        return Gradient(value, norm, math.isfinite(value) and (math.isfinite(norm) or overflowed), seen)

    def _norm(self) -> float:
        return float(whole(get_total_norm([p.grad for p in self.parameters if p.grad is not None])))

    def update(self, gradient: Gradient, lr: float, step: int) -> None:
        """Update the weights by the gradient; `step` counts from 1."""
        if self.config.optimizer.clip:
            norm = torch.tensor(gradient.norm, device=self.device)
            clip_grads_with_norm_(self.parameters, self.config.optimizer.clip, norm)
        set_lr(self.optimizer, lr)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update(self.potential, step)

    def leave_out(self) -> None:
        """Discard the gradient, so that the weights stay unchanged."""
        self.optimizer.zero_grad(set_to_none=True)
        if self.scaler.is_enabled():
            self.scaler.update()

    def predict(self, batch: AtomicBatch) -> Outputs:
        """Predict with the floating-point precision of the run."""
        with autocast(self.config.compute, self.device):
            outputs: Outputs = self.potential(batch)
        return outputs

    @contextmanager
    def evaluating(self) -> Iterator[Callable[[AtomicBatch], Outputs]]:
        """Context that yields a predictor without dropout, with averaged weights if there are any."""
        swapped = nullcontext() if self.average is None else self.average.swapped(self.potential)
        self.potential.eval()
        try:
            with swapped, gathered(self.replica), torch.no_grad():
                yield lambda batch: self.predict(batch.to(self.device))
        finally:
            self.potential.train()

    # State ------------------------------------------------------------------------------------------------------------

    def checkpoint(self, step: int, state: dict[str, Any]) -> Checkpoint:
        """Make a checkpoint from which `restore` can continue training. It shares its tensors with the learner.

        All processes have to make it, since they gather what is divided among them.
        """
        ema = None if self.average is None else self._whole(self.average.state(self.potential))
        return Checkpoint(
            step,
            self._whole(self.potential.state_dict()),
            ema,
            self._whole(optimizer_tensors(self.potential, self.optimizer)),
            {**state, "scaler": self.scaler.state_dict()},
        )

    def _whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with self.world.summing():
            found = {}
            for name, tensor in tensors.items():
                full = whole(tensor)
                if self.world.is_main:  # the process that writes; what was gathered leaves the device at once
                    found[name] = full if full is tensor else full.cpu()
        return found

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint. Raises MatscaleError if the checkpoint belongs to another model."""
        try:
            there = self.potential.state_dict()
            model = {name: placed(t, there[name]) if name in there else t for name, t in checkpoint.model.items()}
            self.potential.load_state_dict(model)
            if self.average is not None:
                self.average.load(checkpoint.ema or {})
        except (RuntimeError, KeyError) as error:
            raise MatscaleError(
                f"The checkpoint of step {checkpoint.step} belongs to another model ({error}). If the plugin "
                f"{self.config.architecture.name} has changed since, install the version that run.json names."
            ) from None
        load_optimizer_tensors(self.potential, self.optimizer, checkpoint.optimizer)
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(checkpoint.state["scaler"])


_NAMED = 8


def suspects(outputs: Outputs, batch: AtomicBatch) -> list[int]:
    """Find structures with a prediction that is not finite or a label that is infinite; returns rows of the dataset."""
    bad = ~torch.isfinite(outputs.energy)
    for label in (batch.energy, batch.stress):
        if label is not None:
            bad |= torch.isinf(label.reshape(len(label), -1)).any(dim=1)
    for per_atom in (outputs.forces, None if batch.forces is None else torch.nan_to_num(batch.forces, nan=0.0)):
        if per_atom is not None:
            bad[batch.batch[~torch.isfinite(per_atom).all(dim=1)]] = True
    if outputs.stress is not None:
        # A structure without volume has no stress; NaN is the right answer there.
        bad |= ~torch.isfinite(outputs.stress).flatten(1).all(dim=1) & batch.has_volume()
    return [] if batch.index is None else batch.index[bad].tolist()


def named(dataset: PackedDataset, rows: Sequence[int]) -> str:
    """List structures for a message: `structure 17 (Al2O3, 10 atoms), ...`."""
    parts = []
    for row in rows[:_NAMED]:
        structure = dataset.structure(row)
        parts.append(f"structure {row} ({structure.formula}, {len(structure)} atoms)")
    more = f" and {len(rows) - _NAMED} more" if len(rows) > _NAMED else ""
    return ", ".join(parts) + more
