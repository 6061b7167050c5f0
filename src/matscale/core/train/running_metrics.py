"""Training metrics summed over the steps between two rows of metrics.jsonl."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from matscale.core.train.learner import Gradient
from matscale.core.train.metrics import Sums
from matscale.core.train.processes.world import World


@dataclass
class RunningMetrics:
    """Sums over the steps since the last row of metrics.jsonl."""

    metrics: Sums
    objective: float = 0.0
    gradient_norm: float = 0.0
    steps: int = 0
    lr: float = 0.0
    """Learning rate of the latest step."""
    # Timings depend on the machine and are no part of a checkpoint:
    seconds: float = 0.0
    waited: float = 0.0
    atoms: float = 0.0
    flops: float = 0.0

    def learned(self, gradient: Gradient, lr: float) -> None:
        """Add the errors of a step that updated the weights."""
        for outputs, batch in gradient.seen:
            self.metrics.update(outputs, batch)
        self.objective += gradient.objective
        self.gradient_norm += gradient.norm if math.isfinite(gradient.norm) else 0.0
        self.steps += 1
        self.lr = lr

    def spent(self, seconds: float, waited: float, atoms: float, flops: float) -> None:
        """Add the time, atoms and FLOPs of a step."""
        self.seconds += seconds
        self.waited += waited
        self.atoms += atoms
        self.flops += flops

    def means(self, world: World) -> dict[str, float]:
        """Mean errors and objective over the steps and all processes, and the latest learning rate."""
        world.sum(self.metrics.sums)
        steps = max(self.steps, 1)
        return {
            **self.metrics.values(),
            "objective": self.objective / steps,
            "gradient_norm": self.gradient_norm / steps,
            "lr": self.lr,
        }

    def speed(self, peak: float) -> dict[str, float]:
        """Training speed of all devices together: atoms/s, FLOP/s, `mfu` (FLOP/s as a share of `peak`).

        The time includes waiting for data; `data_wait` is the share of the time spent waiting.
        """
        seconds = max(self.seconds, 1e-9)
        return {
            "atoms_per_s": self.atoms / seconds,
            "data_wait": self.waited / seconds,
            "flops_per_s": self.flops / seconds,
            "mfu": self.flops / seconds / peak,
        }

    def state(self, world: World) -> dict[str, Any]:
        """JSON-ready state, with the sums of errors over all processes."""
        sums = {"objective": self.objective, "gradient_norm": self.gradient_norm, "steps": self.steps, "lr": self.lr}
        return {"metrics": world.sum(self.metrics.sums.clone()).tolist(), **sums}

    def restore(self, state: dict[str, Any], world: World) -> None:
        """Restore the result of `state`. Only the main process takes the sums of errors, so that they count once."""
        if world.is_main:
            self.metrics.load(state["metrics"])
        self.objective, self.gradient_norm = state["objective"], state["gradient_norm"]
        self.steps, self.lr = state["steps"], state["lr"]
