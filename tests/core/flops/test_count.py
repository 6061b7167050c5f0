"""What is counted beside the products on paper: element-wise work, kernels of other people, reference paths."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from crystals import random_structures
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.core.estimate.live_bytes import LiveBytes
from matscale.core.flops import Probes, cost_of, count_step, flops_of_kernel
from matscale.core.flops.count import run_counted
from matscale.core.flops.kernels import _KERNELS
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.model.reference_path import is_reference_path_wanted, reference_path


@torch.library.custom_op("matscale_tests::outer_sum", mutates_args=())
def outer_sum(x: Tensor, weight: Tensor) -> Tensor:
    return x @ weight


@outer_sum.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], weight.shape[1])


def _backward(ctx, gradient: Tensor) -> tuple[None, Tensor]:  # type: ignore[no-untyped-def]
    return None, ctx.x.T @ gradient


def _setup(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    ctx.x = inputs[0]


outer_sum.register_autograd(_backward, setup_context=_setup)


class Model(nn.Module):
    """energy = Σ atoms of what `layer` makes of the positions."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.weight = kind, nn.Parameter(torch.ones(3, 8))

    def forward(self, batch: AtomicBatch) -> Outputs:
        x = batch.positions
        if self.kind == "kernel":
            x = outer_sum(x, self.weight)
        elif self.kind == "vector":
            x = (x @ self.weight[:, 0])[:, None]
        elif self.kind == "checkpointed" and not is_reference_path_wanted():
            x = torch.utils.checkpoint.checkpoint(lambda y: torch.tanh(y @ self.weight), x, use_reentrant=False)
        else:
            x = torch.tanh(x @ self.weight)
        energy = x.sum(1)
        total = energy.new_zeros(batch.n_structures).index_add(0, batch.batch, energy)
        return Outputs(energy=total, forces=batch.positions)


@pytest.fixture
def batch() -> AtomicBatch:
    return collate(random_structures(3), Graph.none())


def potential(kind: str) -> Potential:
    return Potential(Model(kind), derive=False, elements=tuple(range(1, 119)))


def test_elementwise_work_is_counted_beside_the_contractions(batch: AtomicBatch) -> None:
    count = run_counted(potential("plain"), batch, training=True)
    n = batch.n_atoms
    assert count.contractions == 2 * 2 * n * 3 * 8  # forward, and the gradient of the weights
    # tanh, the sum over channels and over atoms forward; the gradient of tanh backward: 8 + 8 + 1 + 8 per atom.
    # What the potential does to the three components of a force comes to it: about 11 per atom.
    assert 25 * n <= count.elementwise <= 40 * n
    assert count.opaque == ()


def test_a_product_with_a_vector_counts_like_any_other(batch: AtomicBatch) -> None:
    assert count_step(potential("vector"), batch) == 2 * 2 * batch.n_atoms * 3


def test_a_kernel_of_somebody_else_is_named_until_it_has_a_formula(
    batch: AtomicBatch,
) -> None:
    product = 2 * batch.n_atoms * 3 * 8
    before = cost_of(potential("kernel"), Probes([batch] * 8, [batch]))
    assert before.step(batch.shape) == product  # the backward alone
    [complaint] = before.complaints("kernelled")
    assert "matscale_tests.outer_sum" in complaint
    assert "flops_of_kernel" in complaint
    operator = torch.ops.matscale_tests.outer_sum

    @flops_of_kernel(operator)
    def _(x, weight, *args, out_shape=None, **kwargs) -> int:  # type: ignore[no-untyped-def]
        return 2 * x[0] * x[1] * weight[1]

    try:
        after = cost_of(potential("kernel"), Probes([batch] * 8, [batch]))
    finally:
        _KERNELS.pop(operator)
    assert after.step(batch.shape) == 2 * product
    assert not after.complaints("kernelled")


def test_recomputation_is_not_counted_where_a_model_has_a_reference_path(batch: AtomicBatch) -> None:
    assert count_step(potential("checkpointed"), batch) == count_step(potential("plain"), batch)
    assert not is_reference_path_wanted()


def test_who_looks_at_single_operations_gets_the_reference_path_but_for_the_measurement_of_memory() -> None:
    with FlopCounterMode(display=False):
        assert is_reference_path_wanted()
    with LiveBytes():
        assert not is_reference_path_wanted()
        with reference_path():
            assert is_reference_path_wanted()
