"""Tables that fairchem stores beside the parameters.

They follow from the options, and are stored under the name of every module that has one. fairchem refuses a checkpoint
in which one is missing, and computes with those in the file.

| table | modules that hold it: content |
|---|---|
| `distance_expansion.offset` | the backbone: centres of the Gaussians [Å] |
| `SO3_rotation.0.mapping.*` | all modules on edges: l and m of all coefficients |
| `mappingReduced.*` | all modules on edges: l and m of the coefficients that messages keep |
| `SO3_grid.L.M.*` | all modules with activations: a grid for each degree L ≤ lmax and order M ≤ lmax |
| `expand_index`, `balance_degree_weight` | linear maps and norms: l of each coefficient, its share in a mean |
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from matscale.plugin import sphere
from matscale.plugins.eqv2.config import EqV2Config

Tables = dict[str, Tensor]


def fairchem_tables(config: EqV2Config) -> Tables:
    """Make the tables of a hydra model with these options, by name. Modules share them, as in fairchem."""
    blocks = [f"backbone.blocks.{i}" for i in range(config.n_layers)]
    attentions = [*(f"{block}.ga" for block in blocks), "output_heads.forces.force_block"]
    feed_forwards = [*(f"{block}.ffn" for block in blocks), "output_heads.energy.energy_block"]
    norms = [*(f"{block}.norm_{k}" for block in blocks for k in (1, 2)), "backbone.norm"]
    if config.stress_head != "none":
        norms.append("output_heads.stress.sphharm_norm")
    on_edges = ["backbone", "backbone.edge_degree_embedding", *attentions]
    convolutions = [f"{attention}.so2_conv_{k}" for attention in attentions for k in (1, 2)]
    linear = [f"{a}.proj" for a in attentions] + [f"{f}.so3_linear_{k}" for f in feed_forwards for k in (1, 2)]

    found = {"backbone.distance_expansion.offset": _centers(config)}
    for owners, part, tables in (
        (on_edges, "SO3_rotation.0.mapping.", _mapping(config.lmax, config.lmax)),
        ([*on_edges, *convolutions], "mappingReduced.", _mapping(config.lmax, config.mmax)),
        (["backbone", *attentions, *feed_forwards], "SO3_grid.", _grids(config.lmax, config.grid_resolution)),
        (norms, "", _norm(config.norm, config.lmax)),
        (linear, "", {"expand_index": torch.tensor(sphere.degrees(config.lmax))}),
    ):
        found |= {f"{owner}.{part}{name}": table for owner in owners for name, table in tables.items()}
    return found


def _centers(config: EqV2Config) -> Tensor:
    return sphere.WideGaussians(config.cutoff, config.n_radial).centers.float()


@cache
def _within(lmax: int, mmax: int) -> list[int]:
    """Indices of the coefficients with |m| ≤ mmax in the degree-major order of all."""
    return [k for k, m in enumerate(sphere.orders(lmax)) if abs(m) <= mmax]


@cache
def _mapping(lmax: int, mmax: int) -> Tables:
    """Tables of l and m for the coefficients with |m| ≤ mmax, and the permutation from degree-major to order-major."""
    within = _within(lmax, mmax)
    m = torch.tensor(sphere.orders(lmax))[within]
    to_m = torch.zeros(len(within), len(within))
    for row, place in enumerate(sphere.kept(lmax, mmax).places):
        to_m[row, within.index(place)] = 1.0
    return {
        "l_harmonic": torch.tensor(sphere.degrees(lmax))[within],
        "m_harmonic": m.abs(),
        "m_complex": m,
        "res_size": torch.tensor([len(within)]),
        "to_m": to_m,
        "m_size": torch.tensor([lmax + 1 - order for order in range(mmax + 1)]),
    }


@cache
def _grids(lmax: int, resolution: int) -> Tables:
    found: Tables = {}
    for degree in range(lmax + 1):
        for order in range(lmax + 1):
            tables = {**_grid(degree, order, resolution), **_named("mapping.", _mapping(degree, degree))}
            found |= _named(f"{degree}.{order}.", tables)
    return found


def _named(prefix: str, tables: Tables) -> Tables:
    return {prefix + name: table for name, table in tables.items()}


def _grid(lmax: int, mmax: int, resolution: int) -> Tables:
    """Tables of the transforms to a product grid and back, for the coefficients with |m| ≤ mmax, degree-major.

    Both are [latitudes, longitudes, coefficients].
    """
    within = _within(lmax, mmax)
    grid = sphere.SphereGrid(lmax, resolution)
    mmax = min(lmax, mmax)
    rescale = torch.ones(len(sphere.degrees(lmax)), dtype=torch.float64)
    rescale[sphere.kept(lmax, mmax).places] = torch.from_numpy(sphere.kept(lmax, mmax).rescale)
    to_grid, from_grid = grid.to_grid * rescale, grid.from_grid.T * rescale
    shape = (resolution, resolution, len(within))
    return {
        "to_grid_mat": to_grid[:, within].float().reshape(shape),
        "from_grid_mat": from_grid[:, within].float().reshape(shape),
    }


def _norm(kind: str, lmax: int) -> Tables:
    if kind == "layer_norm":
        return {}
    degree = np.array(sphere.degrees(lmax))
    if kind == "layer_norm_sh":
        return {"balance_degree_weight": _column(1.0 / ((2 * degree[1:] + 1) * lmax))}
    balance = _column(1.0 / ((2 * degree + 1) * (lmax + 1)))
    return {"expand_index": torch.from_numpy(degree), "balance_degree_weight": balance}


def _column(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values).float()[:, None]
