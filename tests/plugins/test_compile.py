"""Architectures that claim to compile do, for batches of any size and with the numbers of before."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from matscale.core.contract.structures import crystal, metal, slab
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture, DatasetInfo
from rungs import rung

# torch's compiler warns of itself: it looks at gradients that are none, and uses what it has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
CLAIMING = [a for a in host().architectures() if a.compiles and a.name != "eqv2"]
"""EquiformerV2, which takes longest, has a test of its own (`test_eqv2_cost`)."""
MEMBERS = (
    [crystal(), metal()],
    [crystal(), slab(), metal()],
    [slab(), slab()],
    [crystal()] * 5,
)


class Captures:
    """A compiler that runs what it is given, and counts how often it is asked."""

    def __init__(self) -> None:
        self.n = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[object]) -> object:
        self.n += 1
        return graph.forward


def subject(architecture: Architecture, dtype: torch.dtype, **options: int) -> tuple[nn.Module, list[AtomicBatch]]:
    """A small model without anything random, with some `options` changed, and batches of it."""
    config = rung(architecture.name)
    still = {name: 0.0 for name in type(config).model_fields if "drop" in name}
    config = config.model_copy(update={**still, **options})
    model = architecture.model(config, DatasetInfo.any(), seed=0).to(dtype).train()
    return model, [collate(members, architecture.graph(config), dtype) for members in MEMBERS]


def step(model: nn.Module, data: AtomicBatch) -> list[Tensor]:
    """Outputs, and the gradients of a loss of them as one vector."""
    model.zero_grad()
    out = model(data)
    outputs = [x for x in (out.energy, out.forces, out.stress) if x is not None]
    sum(x.double().square().sum() for x in outputs).backward()  # type: ignore[union-attr]
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return [*(x.detach() for x in outputs), torch.cat(gradients)]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[] if a.name == "transformer" else pytest.mark.long, id=a.name) for a in CLAIMING],
)
def test_what_claims_to_compile_does_so_once_for_batches_of_all_sizes(architecture: Architecture) -> None:
    (model, batches), capture = subject(architecture, torch.float64, n_layers=1), Captures()
    expected = [step(model, data) for data in batches]
    model.compile(dynamic=True, backend=capture)
    captured = []
    for data, plain in zip(batches, expected):
        for x, y in zip(step(model, data), plain, strict=True):
            assert float((x - y).norm()) < 1e-9 * float(y.norm())
        captured.append(capture.n)
    assert captured[0] > 0
    assert captured[1] == captured[-1]  # nothing new after the second batch


@pytest.mark.long
def test_escaip_compiled_to_machine_code_gives_the_same_numbers_and_gradients() -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    model, batches = subject(host().architecture("escaip"), torch.float32, n_layers=1)
    batches = batches[:2]
    expected = [step(model, data) for data in batches]
    model.compile(dynamic=True)
    for data, plain in zip(batches, expected):
        for x, y in zip(step(model, data), plain, strict=True):
            assert float((x - y).norm()) < 1e-5 * float(y.norm())
