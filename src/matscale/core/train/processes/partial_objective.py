"""Part of a step's objective that one micro-batch contributes, as a module that several processes can replicate."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.train.loss import Objective


class PartialObjective(nn.Module):
    """Module whose output is the loss rather than the predictions.

    DistributedDataParallel starts at the output of a module to find the parameters that a backward pass will use. If it
    starts at the loss, it leaves out heads whose output has no label in the batch.
    """

    def __init__(
        self,
        potential: Potential,
        objective: Objective,
        predict: Callable[[AtomicBatch], Outputs],
        anchored: bool,
    ) -> None:
        """Set up the module. `predict` runs `potential` in the precision of the run.

        `anchored`: whether the objective depends on a parameter of this module, with derivative zero, so that a process
        without structures or labels has a backward pass, too.
        """
        super().__init__()
        self.potential, self.objective, self.predict = potential, objective, predict
        example = next(potential.parameters())
        zero = torch.zeros(1, dtype=example.dtype, device=example.device)
        self.anchor = nn.Parameter(zero) if anchored else None
        # Nothing uses it: DistributedDataParallel warns once if it looks for unused parameters and finds none.
        self.unused = nn.Parameter(zero.clone()) if anchored else None

    def forward(self, batch: AtomicBatch | None, counts: Mapping[str, float]) -> tuple[Tensor | None, Outputs | None]:
        """Compute the objective of a micro-batch, divided by the `counts` of the whole step, and detached predictions.

        The objective is None if nothing in the batch has a label and the module has no anchor.
        """
        value = None if self.anchor is None else 0 * self.anchor.double().sum()
        if batch is None:
            return value, None
        outputs = self.predict(batch)
        sums = self.objective.sums(outputs, batch)
        if sums:
            part = self.objective.total(sums, counts)
            value = part if value is None else part + value
        return value, outputs.detach()
