"""The fast path of EquiformerV2 against the reference one: the same numbers, and taken only where they suffice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.errors import MatscaleError
from matscale.core.model.outputs import Outputs
from matscale.core.runs.config import OptimizerConfig
from matscale.core.train.optimizer.optim import adamw
from matscale.plugins.eqv2 import EqV2, fast, graph
from matscale.plugins.eqv2.fast import sizes
from matscale.plugins.eqv2.fast.edges import sorted_edges

TINY = {"channels": 4, "attention_hidden": 4, "alpha_channels": 4, "ffn_hidden": 4, "n_layers": 1}


def molecule(*positions: tuple[float, float, float]) -> Structure:
    numbers = np.array([8, 1, 6, 7, 9][: len(positions)])
    return Structure(numbers, np.array(positions, dtype=float), np.zeros((3, 3)), np.array([False] * 3))


ALONE = molecule((0, 0, 0))
PAIR = molecule((0, 0, 0), (0.3, 0.9, 0.4))
APART = molecule((0, 0, 0), (0, 1.1, 0), (50, 0, 0))
"""Two atoms with one edge each, one along the polar axis, and one without."""
UNEVEN = molecule((0, 0, 0), (1.0, 0.2, 0), (2.9, 0.1, 0.3), (4.8, 0, 0.1), (6.5, 0.4, 0))
"""A chain, whose ends have fewer neighbours than its middle."""


@pytest.fixture
def mixed(oxide: Structure) -> tuple[Structure, ...]:
    """Degrees from 0 to more than 20, in no order; the first and the last structure have no edges."""
    return ALONE, oxide, UNEVEN, PAIR, APART, ALONE


def numbers(model: EqV2, data: AtomicBatch, path: str) -> dict[str, Tensor]:
    """Outputs, and gradients of all parameters of a loss in which everything counts differently."""
    with fast.forced(path):
        torch.manual_seed(5)
        outputs = model(data)
    found = {name: getattr(outputs, name) for name in ("energy", "forces", "stress")}
    torch.manual_seed(6)
    loss = sum((output.double() * torch.randn(output.shape, dtype=torch.float64)).sum() for output in found.values())
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in {**found, **gradients}.items()}


def deviation(model: EqV2, data: AtomicBatch) -> float:
    """Largest difference of any output or gradient, relative to its norm."""
    reference, quick = (numbers(model, data, path) for path in ("reference", "fast"))
    assert reference.keys() <= quick.keys()
    assert quick.keys() == {"energy", "forces", "stress", *dict(model.named_parameters())}
    worst = 0.0
    for name, value in quick.items():
        expected = reference.get(name, torch.zeros_like(value))
        if name in model.idle_parameters():
            assert max(value.norm(), expected.norm()) < 1e-12, name  # a LayerNorm of one channel leaves dust
            continue
        assert expected.any(), name
        worst = max(worst, float((value - expected).norm() / expected.norm()))
    return worst


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stress_head": "rank2"},
        {"n_heads": 1},
        {"n_heads": 5, "value_channels": 3, "norm": "layer_norm"},
        {"norm": "rms_norm_sh", "stress_head": "rank2", "max_neighbors": 6, "strict_neighbors": True},
        {"max_neighbors": 0},
        {"grid": "lebedev"},
        {"max_neighbors": 0, "stress_head": "rank2", "mmax": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("train", [False, True], ids=["evaluation", "training"])
def test_outputs_and_all_gradients_are_those_of_the_reference_path(
    options: dict, train: bool, make_model, mixed, batch_of
) -> None:
    model = make_model(**{"proj_drop": 0.2, **options}).train(train)  # dropout by the same seed
    assert deviation(model, batch_of(model, *mixed)) < 1e-12


@pytest.mark.parametrize("lmax", range(2, 7))
def test_every_degree_and_order_agrees(lmax: int, make_model, oxide, batch_of) -> None:
    for mmax in range(lmax + 1):
        model = make_model(**TINY, lmax=lmax, mmax=mmax, grid_resolution=2 * (lmax + 1), max_neighbors=4)
        assert deviation(model, batch_of(model, oxide, PAIR)) < 1e-12, mmax


def test_single_precision_agrees_to_its_rounding(make_model, mixed, batch_of) -> None:
    model = make_model(stress_head="rank2")
    data = batch_of(model, *mixed)
    exact = numbers(model, data, "reference")
    quick = numbers(model.float(), data.to(dtype=torch.float32), "fast")
    for name, value in quick.items():
        if name not in model.idle_parameters():
            assert float((value.double() - exact[name]).norm() / exact[name].norm()) < 1e-5, name


@pytest.mark.parametrize("chunk", [1, 7, 10**6])
@pytest.mark.parametrize("cache_bytes", [1, 10**9])
def test_numbers_do_not_depend_on_the_chunks(
    chunk: int, cache_bytes: int, make_model, mixed, batch_of, monkeypatch
) -> None:
    monkeypatch.setattr(sizes, "CHUNK", chunk)
    monkeypatch.setattr(sizes, "CACHE_BYTES", cache_bytes)
    model = make_model(**TINY, lmax=2, grid_resolution=6)
    assert deviation(model, batch_of(model, *mixed)) < 1e-12


def test_what_is_kept_for_backward_does_not_change_the_numbers(make_model, mixed, batch_of, monkeypatch) -> None:
    model = make_model()
    data = batch_of(model, *mixed)
    with torch.no_grad(), fast.forced("fast"):
        nothing = model(data)
    monkeypatch.setattr(sizes, "TURNED_BYTES", 0)
    assert deviation(model, data) < 1e-12
    torch.testing.assert_close(nothing.forces, numbers(model, data, "fast")["forces"], rtol=0, atol=1e-13)


@pytest.mark.parametrize("n_edges", [1, 5, 7, 100, 10**6])
def test_chunks_are_all_edges_of_whole_atoms_in_order(n_edges: int, make_model, mixed, batch_of) -> None:
    model = make_model(**TINY)
    edges = sorted_edges(model.edge_frames, batch_of(model, *mixed))
    chunks = edges.chunks(n_edges)
    targets = edges.edges.target
    ends = [0, *(chunk.edges.stop for chunk in chunks)]
    assert [chunk.edges.start for chunk in chunks] == ends[:-1]
    assert ends[-1] == len(targets)
    for chunk in chunks:
        assert chunk.n_edges <= n_edges or sum(block.n_atoms for block in chunk.blocks) == 1
        for block in chunk.blocks:
            per_atom = targets[block.edges].view(block.n_atoms, block.degree)
            assert torch.equal(per_atom, per_atom[:, :1].expand_as(per_atom))
    order = torch.arange(edges.n_atoms) if edges.order is None else edges.order
    for block in edges.blocks:
        assert torch.equal(targets[block.edges][:: block.degree], order[block.atoms])


def test_edges_in_any_order_give_the_same_numbers(make_model, oxide, batch_of) -> None:
    """Also where all degrees are equal, so that atoms stay but edges do not."""
    model = make_model(**TINY, lmax=2, grid_resolution=6, max_neighbors=8, strict_neighbors=True)
    data = batch_of(model, oxide)
    assert sorted_edges(model.edge_frames, data).permutation is None
    order = torch.randperm(data.n_edges, generator=torch.Generator().manual_seed(0))
    mixed_up = type(data)(
        **{**vars(data), "edge_index": data.edge_index[:, order], "edge_shift": data.edge_shift[order]}
    )
    assert sorted_edges(model.edge_frames, mixed_up).permutation is not None
    first, second = (numbers(model, batch, "fast") for batch in (data, mixed_up))
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])
def test_the_fast_path_has_the_numbers_of_fairchem(golden, dtype, tolerance) -> None:
    with torch.no_grad(), fast.forced("fast"):
        outputs = golden.model(dtype)(golden.batch(dtype))
    for name, value in {
        "energy": outputs.energy,
        "forces": outputs.forces,
        "stress_full_no_denorm": outputs.stress,
    }.items():
        expected = golden.tensors[f"out64.{name}"]
        assert float((value.double() - expected).abs().max() / expected.abs().max()) < tolerance, name


def test_on_the_golden_model_both_paths_agree(golden) -> None:
    assert deviation(golden.model().train(), golden.batch()) < 1e-12


@pytest.mark.parametrize("loss", ["quadratic", "linear"])
def test_a_second_derivative_is_refused_with_what_to_do(loss: str, make_model, oxide, batch_of) -> None:
    """Also of a linear loss, whose own gradients are constants."""
    model = make_model(**TINY, lmax=2, grid_resolution=6)
    data = batch_of(model, oxide)

    def second_derivative() -> None:
        forces = model(data).forces
        value = forces.square().sum() if loss == "quadratic" else forces.sum()
        weights = [p for name, p in model.named_parameters() if name not in model.idle_parameters()]
        first = torch.autograd.grad(value, weights, create_graph=True, allow_unused=True)
        sum(g.square().sum() for g in first if g is not None).backward()

    with fast.forced("fast"), pytest.raises(MatscaleError) as refusal:
        second_derivative()
    assert 'with fast.forced("reference"):' in str(refusal.value)
    assert "forces = 'gradient'" in str(refusal.value)
    with fast.forced("reference"):
        second_derivative()
    assert model.element.weight.grad.any()


def test_a_first_derivative_with_its_graph_is_given(make_model, oxide, batch_of) -> None:
    model = make_model(**TINY, lmax=2, grid_resolution=6)
    data, weight = batch_of(model, oxide), model.element.weight
    with fast.forced("fast"):
        plain, with_graph = (
            torch.autograd.grad(model(data).energy.sum(), weight, create_graph=keep)[0] for keep in (False, True)
        )
    assert torch.equal(plain, with_graph)


@pytest.fixture
def taken(monkeypatch) -> Callable[[Callable[[], Outputs]], str]:
    """Which path a forward takes."""
    seen: list[str] = []
    forward = fast.forward

    def spy(model: EqV2, data: AtomicBatch) -> Outputs:
        seen.append("fast")
        return forward(model, data)

    monkeypatch.setattr(fast, "forward", spy)

    def path_of(call: Callable[[], Outputs]) -> str:
        seen.clear()
        call()
        return seen[0] if seen else "reference"

    return path_of


def test_training_and_prediction_of_direct_forces_are_fast(make_model, oxide, batch_of, taken) -> None:
    model = make_model(**TINY)
    data = batch_of(model, oxide)
    assert taken(lambda: model.train()(data)) == "fast"
    with torch.no_grad():
        assert taken(lambda: model.eval()(data)) == "fast"
    with torch.inference_mode():
        assert taken(lambda: model(data)) == "fast"
    assert taken(lambda: model.float()(data.to(dtype=torch.float32))) == "fast"


def test_derivatives_through_the_geometry_take_the_reference_path(make_model, oxide, batch_of, taken) -> None:
    model = make_model(**TINY)
    data = batch_of(model, oxide)
    moving = data.with_geometry(data.positions.clone().requires_grad_(), data.cell)
    assert taken(lambda: model(moving)) == "reference"
    model(moving).energy.sum().backward()
    assert moving.positions.grad.any()
    strained = data.with_geometry(data.positions, data.cell.clone().requires_grad_())
    assert taken(lambda: model(strained)) == "reference"
    with torch.no_grad():
        assert taken(lambda: model(moving)) == "fast"
    with fast.forced("fast"), pytest.raises(ValueError, match="positions or cell require a gradient"):
        model(moving)
    conservative = make_model(**TINY, forces="gradient", max_neighbors=0)
    assert taken(lambda: conservative(batch_of(conservative, oxide))) == "reference"


def test_forward_derivatives_are_those_of_the_backward_ones(make_model, oxide, batch_of) -> None:
    """By dual numbers and by torch.func, with gradients enabled and without."""
    model = make_model(**TINY, lmax=2, grid_resolution=6)
    data = batch_of(model, oxide)
    along = torch.randn(data.positions.shape, dtype=torch.float64)

    def energy(positions: Tensor) -> Tensor:
        return model(data.with_geometry(positions, data.cell)).energy

    start = data.positions.clone().requires_grad_()
    expected = (torch.autograd.grad(energy(start).sum(), start)[0] * along).sum()
    assert expected.abs() > 1e-6
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(data.positions, along)
        by_dual_numbers = forward_ad.unpack_dual(energy(moving)).tangent
        with torch.no_grad():
            without_graph = forward_ad.unpack_dual(energy(moving)).tangent
    _, by_transform = torch.func.jvp(energy, (data.positions,), (along,))
    for found in (by_dual_numbers, without_graph, by_transform):
        torch.testing.assert_close(found.sum(), expected, rtol=1e-10, atol=1e-12)


def test_hooks_and_adapters_are_not_passed_over(make_model, oxide, batch_of, taken) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return 2 * super().forward(input)

    model, seen = make_model(**TINY), []
    data = batch_of(model, oxide)
    edge_function = model.blocks[0].attention.edge_function
    handle = edge_function.register_forward_hook(lambda *_: seen.append(1))
    assert taken(lambda: model(data)) == "reference"
    assert seen
    handle.remove()
    before = model(data).forces
    m0, adapter = edge_function.conv1.m0, Doubled(1, 1)
    adapter.weight, adapter.bias = m0.weight, m0.bias
    edge_function.conv1.m0 = adapter
    assert taken(lambda: model(data)) == "reference"
    assert not torch.allclose(model(data).forces, before)
    with (
        fast.forced("fast"),
        pytest.raises(ValueError, match=r"blocks\.0\.attention\.edge_function\.conv1\.m0 has a hook"),
    ):
        model(data)
    edge_function.conv1.m0 = m0
    assert taken(lambda: model(data)) == "fast"


@pytest.mark.parametrize("register", ["register_full_backward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_the_backward_are_called(register: str, make_model, oxide, batch_of) -> None:
    model, seen = make_model(**TINY), []
    getattr(model.blocks[0].feed_forward.expand, register)(lambda *_: seen.append(1))
    model(batch_of(model, oxide)).energy.sum().backward()
    assert seen


def test_a_batch_without_edges_autocast_and_counters_take_the_slow_path(make_model, oxide, batch_of, taken) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = make_model(**TINY)
    assert taken(lambda: model(batch_of(model, ALONE))) == "reference"
    data = batch_of(model, oxide)
    with FlopCounterMode(display=False):
        assert taken(lambda: model(data)) == "reference"
    single = model.float(), data.to(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert taken(lambda: single[0](single[1])) == "reference"


def test_weight_decay_acts_on_idle_parameters_alike(make_model, oxide, batch_of) -> None:
    found = {}
    for path in ("reference", "fast"):
        model = make_model(**TINY)
        data = collate([oxide], graph(model.config), torch.float64)
        optimizer = adamw(model, OptimizerConfig(lr=1e-2, weight_decay=0.5))
        numbers(model, data, path)
        optimizer.step()
        found[path] = {name: p.detach() for name, p in model.named_parameters()}
    start = dict(make_model(**TINY).named_parameters())
    for name in make_model(**TINY).idle_parameters():
        torch.testing.assert_close(found["fast"][name], found["reference"][name], rtol=1e-6, atol=1e-12)
        if "weight" in name:
            assert not torch.equal(found["fast"][name], start[name]), name
