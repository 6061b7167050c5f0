"""Count the FLOPs of one step by running it under `torch.utils.flop_counter.FlopCounterMode`."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from matscale.core.data.batch import AtomicBatch
from matscale.core.flops.elementwise import ElementwiseCounter
from matscale.core.flops.kernels import kernels
from matscale.core.model.architecture import Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.model.reference_path import reference_path


@dataclass(frozen=True)
class Count:
    """FLOPs of one batch."""

    contractions: float
    """FLOPs of matrix products, convolutions and attention: the number that is reported."""
    elementwise: float
    """Operations on single elements, see `matscale.core.flops.elementwise`."""
    opaque: tuple[str, ...] = ()
    """Kernels that ran but have no formula; they count as zero FLOPs."""


def count_step(potential: Potential, batch: AtomicBatch) -> float:
    """Count FLOPs of forward, loss and backward; neither the potential nor any random state changes."""
    return run_counted(potential, batch, training=True).contractions


def count_prediction(potential: Potential, batch: AtomicBatch) -> float:
    """Count FLOPs of a prediction in evaluation mode, with derived forces and stress."""
    return run_counted(potential, batch, training=False).contractions


def measure_step(architecture: Architecture, config: ArchitectureConfig, batch: AtomicBatch) -> Count:
    """Measure FLOPs of one optimizer step on `batch` (forward, loss, backward), without labels."""
    potential = Potential.of(architecture, config, DatasetInfo.any(), seed=0).to(batch.positions.device)
    return run_counted(potential.to(batch.positions.dtype), batch, training=True)


def measure_step_flops(architecture: Architecture, config: ArchitectureConfig, batch: AtomicBatch) -> float:
    """Measure the FLOPs of one optimizer step, as `Count.contractions`."""
    return measure_step(architecture, config, batch).contractions


def run_counted(potential: Potential, batch: AtomicBatch, training: bool) -> Count:
    """Count the FLOPs of a training step (or a prediction), run with a copy of `potential` in its reference form."""
    probe = copy.deepcopy(potential).train(training)
    # No leaf tensor, since the counter fails if a submodule gets a leaf to differentiate.
    batch = replace(batch, positions=batch.positions + 0)
    # Attention by plain products: the counter does not know the CPU's fused kernel, and for those of GPUs it counts
    # the recomputation in their backward pass.
    unfused = sdpa_kernel(SDPBackend.MATH)
    counter = FlopCounterMode(display=False, custom_mapping=kernels())
    # The element-wise counter is below the other one, which decomposes operators before it passes them on.
    elementwise = ElementwiseCounter(set(counter.flop_registry))
    devices = [batch.positions.device] if batch.positions.is_cuda else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.set_grad_enabled(training),
        unfused,
        reference_path(),
        elementwise,
        counter,
    ):
        outputs = probe(batch)
        if training:
            backward_of_any_loss(outputs)
    return Count(float(counter.get_total_flops()), elementwise.flops, tuple(sorted(elementwise.opaque)))


def backward_of_any_loss(outputs: Outputs) -> None:
    """Compute gradients of all predictions, as the backward pass of a loss does.

    The choice of loss does not matter, since its arithmetic is element-wise.
    """
    parts = (outputs.energy, outputs.forces, outputs.stress, *outputs.extras.values())
    # NaN stress (no cell) must still reach the weights.
    loss = sum(torch.nan_to_num(part).square().sum() for part in parts if part is not None)
    assert isinstance(loss, torch.Tensor)
    loss.backward()
