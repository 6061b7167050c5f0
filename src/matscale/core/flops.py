"""What a training step costs: matrix FLOPs, counted by running it or given by a formula.

Counted are the multiply-adds of matrix products, convolutions and attention (two FLOPs each) in forward, loss and
backward, the double backward of derived forces included; element-wise work, gathers and scatters count nothing, nor
does what activation checkpointing runs a second time. A batch costs

    FLOPs = a n_structures + b n_atoms + c n_edges + d Σ atoms²,        a, b, c, d >= 0

by the plugin's hook, the architecture's own formula, or a fit to a few batches that are run under
`torch.utils.flop_counter.FlopCounterMode`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from matscale.core.architecture import Architecture, ArchitectureConfig, BatchShape, DatasetInfo
from matscale.core.data.batch import AtomicBatch
from matscale.core.potential import Potential
from matscale.core.recompute import not_counted

Formula = Callable[[BatchShape], float | None]


def measure_step_flops(architecture: Architecture, config: ArchitectureConfig, batch: AtomicBatch) -> float:
    """FLOPs of one optimizer step on `batch` (forward, loss, backward), counted by running it. Needs no labels."""
    potential = Potential.of(architecture, config, DatasetInfo.any(), seed=0).to(batch.positions.device)
    return count_step(potential.to(batch.positions.dtype), batch)


def count_step(potential: Potential, batch: AtomicBatch) -> float:
    """FLOPs of forward, loss and backward; neither the potential nor any random state is changed."""
    return _count(potential, batch, training=True)


def count_prediction(potential: Potential, batch: AtomicBatch) -> float:
    """FLOPs of a prediction in evaluation mode, derived forces and stress included."""
    return _count(potential, batch, training=False)


def _count(potential: Potential, batch: AtomicBatch, training: bool) -> float:
    probe = copy.deepcopy(potential).train(training)
    # A tensor that is not a leaf: the counter's bookkeeping fails when a submodule is given a leaf to differentiate.
    batch = replace(batch, positions=batch.positions + 0)
    # Attention by plain products: the counter does not know the CPU's fused kernel, and of the GPU's it counts what
    # their backward computes a second time.
    unfused = sdpa_kernel(SDPBackend.MATH)
    counting = FlopCounterMode(display=False)
    mode = torch.set_grad_enabled(training)
    with torch.random.fork_rng(), mode, unfused, counting as counter, not_counted(counter) as repeated:
        outputs = probe(batch)
        if training:
            parts = (outputs.energy, outputs.forces, outputs.stress)
            # Any loss will do: its own arithmetic is element-wise. NaN stress (no cell) must still reach the weights.
            loss = sum(torch.nan_to_num(part).square().sum() for part in parts if part is not None)
            assert isinstance(loss, torch.Tensor)
            loss.backward()
    return float(counter.get_total_flops() - repeated.flops)


@dataclass(frozen=True)
class Cost:
    """FLOPs of a batch, by its shape."""

    step: Callable[[BatchShape], float]
    """Of one training step."""
    prediction_share: float
    """A prediction costs this share of a step."""
    counted_by: str
    """`formula` (of the plugin) or `fit` (to counted steps)."""
    error: float
    """Largest relative deviation from a count, over the batches that were run."""

    def prediction(self, shape: BatchShape) -> float:
        """Of one prediction in evaluation mode."""
        return float(round(self.prediction_share * self.step(shape)))


def cost_of(potential: Potential, batches: Sequence[AtomicBatch], formula: Formula) -> Cost:
    """By `formula` if it answers, else by a fit to `batches`; both are checked against the counts of these.

    `batches` should differ in number and size of their structures; three or four are enough. Raises ValueError if
    there is none.
    """
    if not batches:
        raise ValueError("cost_of needs at least one batch to count.")
    shapes, counts = [batch.shape for batch in batches], [count_step(potential, batch) for batch in batches]
    share = count_prediction(potential, batches[0]) / counts[0] if counts[0] else 0.0
    known = formula(shapes[0]) is not None
    step: Formula = formula if known else fit(shapes, counts)

    def steps(shape: BatchShape) -> float:
        flops = step(shape)
        assert flops is not None
        return float(round(flops))  # whole numbers add up exactly

    error = max(abs(steps(s) - n) / n if n else 0.0 for s, n in zip(shapes, counts))
    return Cost(steps, share, "formula" if known else "fit", error)


def fit(shapes: Sequence[BatchShape], counts: Sequence[float]) -> Callable[[BatchShape], float]:
    """Non-negative least squares of relative deviations in the four sizes of a batch."""
    from scipy.optimize import nnls

    rows = np.array([_sizes(shape) for shape in shapes])
    flops = np.array(counts, dtype=np.float64)
    if not flops.any():
        return lambda shape: 0.0
    scale = np.maximum(rows.max(axis=0), 1.0)  # columns of like size
    weights = 1 / np.maximum(flops, 1.0)
    coefficients = nnls(rows / scale * weights[:, None], flops * weights)[0] / scale
    return lambda shape: float(_sizes(shape) @ coefficients)


def _sizes(shape: BatchShape) -> np.ndarray:
    sizes = (shape.n_structures, shape.n_atoms, shape.n_edges, shape.sum_atoms_squared)
    return np.array(sizes, dtype=np.float64)


def probes(batch: AtomicBatch) -> list[AtomicBatch]:
    """Batches of different make-up out of one: all of it, the smaller half, the larger half, the largest structure."""
    members = sorted(batch.split(), key=lambda member: (member.n_atoms, member.n_edges))
    half = len(members) // 2
    chosen = [members, members[:half], members[half:], members[-1:]]
    return [AtomicBatch.join(part) for part in chosen if part]


_PEAK = {
    # Dense FLOP/s by the vendor's data sheets; fp32 without tensor cores.
    "H100": {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12, "fp32": 67e12, "fp64": 34e12},
    "H200": {"bf16": 989e12, "fp16": 989e12, "tf32": 494e12, "fp32": 67e12, "fp64": 34e12},
    "A100": {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12, "fp64": 9.7e12},
    "A40": {"bf16": 149.7e12, "fp16": 149.7e12, "tf32": 74.8e12, "fp32": 37.4e12, "fp64": 0.58e12},
}


def peak_flops(device: torch.device, precision: str) -> float | None:
    """FLOP/s that the device could do, for the model FLOPs utilisation; None where it is not known (CPUs)."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((table[precision] for key, table in _PEAK.items() if key in name), None)
