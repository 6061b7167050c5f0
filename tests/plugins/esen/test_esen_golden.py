"""eSEN against the numbers of fairchem's own: tiny models of all kinds, direct and conservative."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from e3nn import o3
from torch import Tensor, nn

from matscale.core.model.outputs import Outputs, model_outputs
from matscale.core.model.sphere.coefficients import kept
from matscale.plugins.esen import ESEN
from matscale.plugins.esen.fairchem.names import fairchem_name


def far(found: Tensor, expected: Tensor) -> float:
    """Largest difference."""
    return float((found.detach().double() - expected.view_as(found)).abs().max())


def named(outputs: Outputs) -> dict[str, Tensor]:
    return {name: getattr(outputs, name) for name in ("energy", "forces", "stress")}


class TheirFrames(nn.Module):
    """Frames of edges by fairchem's formula for quaternions, turned about the edge by the angles of a file."""

    def __init__(self, lmax: int, mmax: int, gamma: Tensor) -> None:
        super().__init__()
        self.lmax, self.places, self.gamma = lmax, kept(lmax, mmax).places, gamma

    def forward(self, vec: Tensor) -> Tensor:
        x, y, z = nn.functional.normalize(vec, dim=-1).unbind(-1)
        zero = torch.zeros_like(x)
        first = nn.functional.normalize(torch.stack([1 + y, -z, zero, x], -1), dim=-1)
        second = nn.functional.normalize(torch.stack([-z, 1 - y, x, zero], -1), dim=-1)
        second = torch.where((first * second).sum(-1, keepdim=True) < 0, -second, second)
        t = ((y + 0.9) / 1.8).clamp(0, 1)
        inside = (t > 0) & (t < 1)
        t = torch.where(inside, t, 0.5)
        share = torch.where(inside, torch.sigmoid((2 * t - 1) / (t * (1 - t))), (y > 0).to(y.dtype))[:, None]
        a, b, c, d = nn.functional.normalize((1 - share) * second + share * first, dim=-1).unbind(-1)
        cos, sin = (0.5 * self.gamma).cos(), (0.5 * self.gamma).sin()
        a, b, c, d = cos * a - sin * c, cos * b + sin * d, cos * c + sin * a, cos * d - sin * b
        rows = [
            [1 - 2 * (c * c + d * d), 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), 1 - 2 * (b * b + d * d), 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), 1 - 2 * (b * b + c * c)],
        ]
        self.rotation = torch.stack([torch.stack(row, -1) for row in rows], -2)
        scattered = torch.randn(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        points, ls = nn.functional.normalize(scattered, dim=-1), list(range(self.lmax + 1))
        before = o3.spherical_harmonics(ls, points, normalize=False, normalization="norm")
        after = o3.spherical_harmonics(ls, points @ self.rotation.mT, normalize=False, normalization="norm")
        return (torch.linalg.pinv(before) @ after).mT[:, self.places]


def with_their_frames(golden) -> ESEN:
    """The model of a file, for grids so coarse that the angle of a frame about its edge shows."""
    model = golden.model()
    config = golden.config
    model.edge_frames.rotation = TheirFrames(config.lmax, config.mmax, golden.tensors["graph.gamma"])
    model.edge_frames.passage = None
    return model


def test_outputs_are_those_of_fairchem(goldens: Callable) -> None:
    files = goldens("*")
    assert len(files) == 19
    for golden in files:
        model = with_their_frames(golden) if golden.has_default_grid else golden.model()
        found = named(model_outputs(model, golden.batch(), derive=not golden.is_direct))
        for name, value in found.items():
            assert far(value, golden.tensors[f"out64.{name}"]) < 1e-9, (golden.path.stem, name)
        if golden.has_default_grid:
            assert far(model.edge_frames.rotation.rotation, golden.tensors["graph.edge_rot_mat"]) < 1e-6
            assert far(golden.model()(golden.batch()).energy, golden.tensors["out64.energy"]) < 1e-4


def test_outputs_in_float32_are_those_of_fairchem(goldens: Callable) -> None:
    for golden in goldens("*l3m2*"):
        model = golden.model(torch.float32)
        found = named(model_outputs(model, golden.batch(torch.float32), derive=not golden.is_direct))
        bound = 1e-3 if golden.has_default_grid else 1e-4
        for name, value in found.items():
            assert far(value, golden.tensors[f"out64.{name}"]) < bound, (golden.path.stem, name)


@pytest.mark.parametrize("pattern", ["conservative_l3m2_gate_spectral", "direct_l3m1_gate_grid", "*chargespin"])
def test_every_intermediate_embedding_is_that_of_fairchem(goldens: Callable, pattern: str) -> None:
    (golden,) = goldens(pattern)
    model, data = golden.model(), golden.batch()
    kept_values: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> None:
        module.register_forward_hook(lambda _, given, found: kept_values.update({name: found}))

    keep("final_norm", model.norm)
    for number, block in enumerate(model.blocks):
        keep(f"block{number}", block)
    first = model.blocks[0]
    for part, module in (("norm_1", first.edge_norm), ("edge_wise", first.edge_wise), ("atom_wise", first.atom_wise)):
        keep(f"block0_{part}", module)
    with torch.no_grad():
        model(data)
        kept_values["edge_degree"] = model.embed_graph(data, model.embed_edges(data))
    stored = {name.removeprefix("intermediate64.") for name in golden.tensors if name.startswith("intermediate64.")}
    assert stored == set(kept_values)
    for name, value in kept_values.items():
        assert far(value, golden.tensors[f"intermediate64.{name}"]) < 1e-12, name


@pytest.mark.parametrize("pattern", ["*pole", "conservative_l2m1_s2_grid", "direct_l2m1_gate_spectral"])
def test_gradient_norms_of_all_parameters_are_those_of_fairchem(goldens: Callable, pattern: str) -> None:
    """Of conservative models, by a second derivative; of one with edges along the polar axis, too."""
    (golden,) = goldens(pattern)
    model = golden.model().train()
    found = named(model_outputs(model, golden.batch(), derive=not golden.is_direct, create_graph=True))
    torch.autograd.backward(
        list(found.values()), [golden.tensors[f"cotangent.{name}"].view_as(value) for name, value in found.items()]
    )
    energy = "energy" if golden.is_direct else "efs"
    compared = 0
    for name, parameter in model.named_parameters():
        norm = golden.facts["grad_norms64"].get(fairchem_name(name).replace("heads.energy.", f"heads.{energy}."))
        if name != "system":
            assert float(parameter.grad.norm()) == pytest.approx(norm, rel=1e-9, abs=1e-12), name
            compared += 1
    assert compared == len(list(model.parameters())) - 1 > 50


def test_parameters_without_effect_are_those_that_the_model_names(goldens: Callable) -> None:
    (golden,) = goldens("direct_l2m1_gate_spectral")
    zeros = {name for name, norm in golden.facts["grad_norms64"].items() if norm == 0 and "mix_csd" not in name}
    assert {fairchem_name(name) for name in golden.model().idle_parameters()} == zeros


def test_our_neighbour_rule_finds_the_same_edges(goldens: Callable) -> None:
    for golden in goldens("*l2m2_gate_spectral*"):
        own = golden.own_batch()

        def listed(index: Tensor, shift: Tensor) -> list[tuple]:
            return sorted(map(tuple, torch.cat([index.T, shift.long()], dim=1).tolist()))

        theirs = listed(golden.tensors["graph.edge_index"], golden.tensors["graph.cell_offsets"])
        assert listed(own.edge_index, own.edge_shift) == theirs


def test_grid_matrices_are_those_of_fairchem(goldens: Callable) -> None:
    for golden in goldens("*s2_grid*"):
        model, config = golden.model(), golden.config
        order = torch.from_numpy(np.argsort(kept(config.lmax, config.mmax).places))  # back to degree-major
        every = torch.arange(config.n_coefficients)
        for name, grid, columns in (
            ("lmax_lmax", model.atom_grid, every),
            ("lmax_mmax", model.edge_grid, order),
        ):
            to_grid, from_grid = grid.to_grid[:, columns], grid.from_grid.T[:, columns]
            assert far(to_grid, golden.tensors[f"buffers.to_grid_{name}"].flatten(0, 1)) < 1e-12
            assert far(from_grid, golden.tensors[f"buffers.from_grid_{name}"].flatten(0, 1)) < 1e-12
