"""EquiformerV2 against fairchem's own numbers: a tiny model with the published kind of stress head."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from matscale.core.data.neighbors import collate
from matscale.core.model.outputs import Outputs
from matscale.core.model.sphere.coefficients import kept
from matscale.core.model.sphere.tensor import parts_from_tensor
from matscale.plugins.eqv2 import EqV2, graph
from matscale.plugins.eqv2.config import idle_parameters
from matscale.plugins.eqv2.fairchem.names import fairchem_name

TOLERANCES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)])


def relative(found: Tensor, expected: Tensor) -> float:
    """Largest difference over largest value."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def intermediates(model: EqV2, data) -> dict[str, Tensor]:
    edges = model.edge_frames(data)
    found = {"edge_degree": model.edge_degree(edges)}
    x = model.embed_graph(data, edges)
    for number, block in enumerate(model.blocks):
        x = block(x, edges, model.edge_grid, model.atom_grid, data.batch, data.n_structures)
        found[f"block{number}"] = x
    return {**found, "final_norm": model.norm(x)}


def named(outputs: Outputs) -> dict[str, Tensor]:
    isotropic, anisotropic = parts_from_tensor(outputs.stress)
    return {
        "energy": outputs.energy,
        "forces": outputs.forces,
        "stress_isotropic": isotropic[:, None],
        "stress_anisotropic": anisotropic,
        "stress_full_no_denorm": outputs.stress,
    }


@TOLERANCES
def test_outputs_are_those_of_fairchem(golden, dtype, tolerance) -> None:
    with torch.no_grad():
        outputs = golden.model(dtype)(golden.batch(dtype))
    for name, value in named(outputs).items():
        assert relative(value, golden.tensors[f"out64.{name}"]) < tolerance, name


@TOLERANCES
def test_every_intermediate_embedding_is_that_of_fairchem(golden, dtype, tolerance) -> None:
    with torch.no_grad():
        found = intermediates(golden.model(dtype), golden.batch(dtype))
    stored = {name.removeprefix("intermediate64.") for name in golden.tensors if name.startswith("intermediate64.")}
    assert stored == set(found)
    for name, value in found.items():
        assert relative(value, golden.tensors[f"intermediate64.{name}"]) < tolerance, name


def test_gradient_norms_of_all_parameters_are_those_of_fairchem(golden) -> None:
    model = golden.model()
    outputs = named(model(golden.batch()))
    cotangents = {
        name: golden.tensors[f"cotangent.{name}"] for name in outputs if f"cotangent.{name}" in golden.tensors
    }
    assert len(cotangents) == 4
    torch.autograd.backward([outputs[name] for name in cotangents], list(cotangents.values()))
    expected = golden.facts["grad_norms64"]
    found = {fairchem_name(name): float(p.grad.norm()) for name, p in model.named_parameters()}
    assert found.keys() == expected.keys()
    assert len(found) == 143
    idle = {fairchem_name(name) for name in idle_parameters(golden.config)}
    for name, norm in expected.items():
        if name in idle:
            assert found[name] < 1e-12, name
            assert norm < 1e-12, name
        else:
            assert found[name] == pytest.approx(norm, rel=1e-5), name


def test_our_neighbour_rule_finds_the_same_edges(golden) -> None:
    own = collate(golden.structures, graph(golden.config), torch.float64)

    def listed(index: Tensor, shift: Tensor) -> list[tuple]:
        return sorted(map(tuple, torch.cat([index.T, shift.long()], dim=1).tolist()))

    theirs = listed(golden.tensors["graph.edge_index"], golden.tensors["graph.cell_offsets"])
    assert listed(own.edge_index, own.edge_shift) == theirs


def test_outputs_with_our_own_edges_are_those_of_fairchem(golden) -> None:
    with torch.no_grad():
        outputs = golden.model()(collate(golden.structures, graph(golden.config), torch.float64))
    for name, value in named(outputs).items():
        assert relative(value, golden.tensors[f"out64.{name}"]) < 1e-6, name


def test_outputs_do_not_change_from_call_to_call(golden) -> None:
    model, data = golden.model(torch.float32), golden.batch(torch.float32)
    with torch.no_grad():
        first, second = named(model(data)), named(model(data))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def test_grid_matrices_are_those_of_fairchem(golden) -> None:
    model = golden.model()
    order = torch.from_numpy(np.argsort(kept(3, 2).places))  # back to degree-major
    for name, grid, columns in (
        ("lmax_lmax", model.atom_grid, torch.arange(16)),
        ("lmax_mmax", model.edge_grid, order),
    ):
        to_grid, from_grid = grid.to_grid[:, columns], grid.from_grid.T[:, columns]
        assert relative(to_grid, golden.tensors[f"buffers.to_grid_{name}"].flatten(0, 1)) < 1e-12
        assert relative(from_grid, golden.tensors[f"buffers.from_grid_{name}"].flatten(0, 1)) < 1e-12


def test_wigner_matrices_differ_from_those_of_fairchem_by_a_turn_about_the_edge(golden) -> None:
    with torch.no_grad():
        ours = golden.model().edge_frames(golden.batch()).into_frame[:20]
    theirs = golden.tensors["buffers.wigner_first20"][:, kept(3, 2).places]
    # m = 0 does not know the turn; ±m are turned into each other, so the sum of their squares does not either.
    torch.testing.assert_close(ours[:, :4], theirs[:, :4], rtol=0, atol=1e-7)
    for plus, minus, n in ((4, 7, 3), (10, 12, 2)):
        squares = [d[:, plus : plus + n] ** 2 + d[:, minus : minus + n] ** 2 for d in (ours, theirs)]
        torch.testing.assert_close(*squares, rtol=0, atol=2e-7)
