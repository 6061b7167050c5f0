"""EquiformerV3 against the numbers of its authors' code: tiny models of all published forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from matscale.core.model.outputs import Outputs, model_outputs
from matscale.core.model.sphere.coefficients import kept
from matscale.core.model.sphere.grid import SphereGrid
from matscale.plugin import sphere
from matscale.plugins.eqv3 import EqV3
from matscale.plugins.eqv3.fairchem.names import derived, published_name


def far(found: Tensor, expected: Tensor) -> float:
    """Largest difference."""
    return float((found.detach().double() - expected.view_as(found)).abs().max())


def named(outputs: Outputs) -> dict[str, Tensor]:
    return {name: getattr(outputs, name) for name in ("energy", "forces", "stress")}


def outputs_of(golden, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    model, batch = golden.model(dtype), golden.batch(dtype)
    if golden.denoises:
        return named(model.denoise(batch, *golden.noise(dtype)))
    return named(model_outputs(model, batch, derive=not golden.is_direct))


def test_outputs_are_the_published_ones(goldens: Callable) -> None:
    files = goldens("*")
    assert len(files) == 5
    for golden in files:
        for name, value in outputs_of(golden).items():
            assert far(value, golden.tensors[f"out64.{name}"]) < 1e-11, (golden.path.stem, name)


def test_outputs_in_single_precision_are_the_published_ones(goldens: Callable) -> None:
    for golden in goldens("*"):
        for name, value in outputs_of(golden, torch.float32).items():
            expected = golden.tensors[f"out64.{name}"]
            assert far(value, expected) < 2e-5 * float(expected.abs().max()), (golden.path.stem, name)


def test_a_pass_without_noise_is_that_of_the_plain_model(goldens: Callable) -> None:
    (golden,) = goldens("dens*")
    model, batch = golden.model(), golden.batch()
    forces, atoms, structures = golden.noise()
    plain = named(model(batch))
    clean = named(model.denoise(batch, forces, 0 * atoms, 0 * structures))
    for name in plain:
        assert far(plain[name], golden.tensors[f"out64_dens_off.{name}"]) < 1e-11
        assert far(clean[name], golden.tensors[f"out64_dens_off.{name}"]) < 1e-11


@pytest.mark.parametrize("pattern", ["direct_l2m1", "gradient_l3m2"])
def test_every_intermediate_value_is_the_published_one(goldens: Callable, pattern: str) -> None:
    """Also those on edges, turned from our frames into theirs, of which the first twenty are kept."""
    (golden,) = goldens(pattern)
    model, data = golden.model(), golden.batch()
    found: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module, part: Callable = lambda output: output) -> None:
        module.register_forward_hook(lambda _, given, output: found.update({name: part(output)}))

    first, attention = model.blocks[0], model.blocks[0].attention
    keep("final_norm", model.norm)
    keep("block0.ga", attention)
    keep("block0.norm_1", first.attention_norm)
    keep("block0.norm_2", first.feed_forward_norm)
    keep("block0.ffn", first.feed_forward)
    keep("edge_degree", model.edge_degree)
    keep("node_energy", model.energy.mlp)
    for number, block in enumerate(model.blocks):
        keep(f"block{number}", block)
    edges = model.embed_edges(data)
    # From our frame of an edge to theirs, a rotation about the axis, [20, K_r, K_r].
    turn = golden.tensors["buffers.wigner_first20"] @ edges.into_frame[:20].mT

    def turned(name: str, module: nn.Module) -> None:
        keep(f"block0.ga.{name}_first20", module, lambda output: turn @ output[0][:20])

    turned("so2_linear_1", attention.conv1)
    turned("so2_linear_2", attention.conv2)
    keep("block0.ga.so2_linear_1_extra_first20", attention.conv1, lambda output: output[1][:20])
    degree = torch.tensor(sphere.degrees(model.config.lmax))
    keep(
        "block0.ga.rad_func_first20",
        attention.radial,
        lambda output: output[:20].unflatten(1, (attention.n_degrees, -1)).index_select(1, degree),
    )
    attention.conv2.register_forward_pre_hook(
        lambda _, given: found.update({"block0.ga.act_first20": turn @ given[0][:20]})
    )
    with torch.no_grad():
        model(data)
        features = golden_features(attention, first.attention_norm(model.embed_graph(data, edges)), edges)
        weights = attention.attention(features, edges)
    assert edges.envelope is not None
    found["block0.ga.softmax"] = weights / edges.envelope[:, None]
    found["envelope"], found["rbf_first20"] = edges.envelope[:, None], edges.basis[:20]
    stored = {name.removeprefix("intermediate64.") for name in golden.tensors if name.startswith("intermediate64.")}
    assert stored == set(found)
    for name, value in found.items():
        assert far(value, golden.tensors[f"intermediate64.{name}"]) < 1e-11, name


def golden_features(attention: nn.Module, x: Tensor, edges: sphere.Edges) -> Tensor:
    """Features from which an attention layer computes its weights."""
    pair = torch.cat([x[edges.source], x[edges.target]], dim=2)
    _, extra = attention.conv1(edges.turn_into_frame(pair), attention.radial_weights(edges))
    return extra[:, : attention.n_features]


@pytest.mark.parametrize("pattern", ["direct_l2m1", "gradient_l2m1", "dens_l3m2"])
def test_gradient_norms_of_all_parameters_are_the_published_ones(goldens: Callable, pattern: str) -> None:
    """Of the conservative model, by a second derivative."""
    (golden,) = goldens(pattern)
    model, batch = golden.model(), golden.batch()
    if golden.denoises:
        found = named(model.denoise(batch, *golden.noise()))
    else:
        found = named(model_outputs(model, batch, derive=not golden.is_direct, create_graph=True))
    torch.autograd.backward(
        list(found.values()), [golden.tensors[f"cotangent.{name}"].view_as(value) for name, value in found.items()]
    )
    norms = golden.facts["grad_norms64"]
    ours = {published_name(name): parameter for name, parameter in model.named_parameters()}
    assert set(ours) == set(norms)
    for name, parameter in ours.items():
        norm = 0.0 if parameter.grad is None else float(parameter.grad.norm())
        assert norm == pytest.approx(norms[name] or 0.0, rel=1e-9, abs=1e-11), name
    if not golden.denoises:
        assert {published_name(name) for name in model.idle_parameters()} == {n for n, v in norms.items() if not v}


def test_names_are_those_of_the_published_parameters_and_tables(goldens: Callable) -> None:
    for golden in goldens("*"):
        shapes = golden.facts["state_dict_shapes"]
        with torch.device("meta"):
            ours = {published_name(name): weight.numel() for name, weight in EqV3(golden.config).named_parameters()}
        theirs = {name: int(np.prod(shape)) for name, shape in shapes.items() if not derived(name)}
        assert ours == theirs
        assert sum(ours.values()) == golden.facts["n_params"]


def test_our_neighbour_rule_finds_the_same_edges(goldens: Callable) -> None:
    for golden in goldens("direct_l2m1") + goldens("gradient_l3m2"):
        own = golden.own_batch()

        def listed(index: Tensor, shift: Tensor) -> list[tuple]:
            return sorted(map(tuple, torch.cat([index.T, shift.long()], dim=1).tolist()))

        theirs = listed(golden.tensors["graph.edge_index"], golden.tensors["graph.cell_offsets"])
        assert listed(own.edge_index, own.edge_shift) == theirs


def test_grid_matrices_are_the_published_ones(goldens: Callable) -> None:
    for golden in goldens("direct*"):
        config, options = golden.config, golden.facts["model"]
        for name, mmax in (("attn", config.mmax), ("ffn", None)):
            grid = SphereGrid(config.lmax, tuple(options[f"{name}_grid_resolution_list"]), mmax)
            assert far(grid.to_grid, golden.tensors[f"buffers.{name}_to_grid"]) < 1e-12
            assert far(grid.from_grid, golden.tensors[f"buffers.{name}_from_grid"]) < 1e-12
        assert golden.tensors["buffers.attn_to_grid"].shape[1] == len(kept(config.lmax, config.mmax).places)
