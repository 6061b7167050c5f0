"""Names of parameters and options of EquiformerV3 in its authors' code, a copy of fairchem v1 (`equiformer_v3`).

| eqv3 | published |
|---|---|
| `element` | `sphere_embedding` |
| `edge_degree.radial` | `edge_degree_embedding` |
| `blocks.i.attention_norm`, `.feed_forward_norm` | `blocks.i.norm_1`, `.norm_2` |
| `blocks.i.attention`, `.feed_forward` | `blocks.i.ga`, `.ffn` |
| `….radial.source`, `.target`, `.net.N` | `….source_embedding`, `.target_embedding`, `.rad_func.net.N` |
| `….convK.m0`, `.m.N` | `….so2_linear_K.fc_m0`, `.so2_m_linear.N.fc` |
| `….project` | `….proj` |
| `….expand`, `.contract` | `….so3_linear_1`, `.so3_linear_2` |
| `….feed_forward.scalars` | `….ffn.scalar_mlp.0.linear` |
| `….feed_forward.gates`, `.pair`, `.mix` | `….ffn.grid_mlp.gating_linear`, `.grid_linear_1`, `.grid_linear_2` |
| norms: `.weight`, `.bias` | `.affine_weight`, `.affine_bias` |
| `energy.mlp.0`, `.2` | `energy_block.linear_1`, `.linear_2` |
| `forces.attention`, `noise.attention` | `force_block`, `dens_block` |
| `stress.gates` | `stress_block.gating_linear` |
| `encode_forces` | `force_embedding` |
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from matscale.plugin import ConfigError, copy_named, renamed_options, rewrite_name
from matscale.plugins.eqv3.config import EqV3Config

_RULES = [
    (r"^element\.", "sphere_embedding."),
    (r"^edge_degree\.", "edge_degree_embedding."),
    (r"\.radial\.(source|target)\.", r".\1_embedding."),
    (r"\.radial\.net\.", ".rad_func.net."),
    (r"^(.*_norm|norm)\.(weight|bias)$", r"\1.affine_\2"),
    (r"\.alpha_norm\.affine_", ".alpha_norm."),
    (r"\.attention_norm\.", ".norm_1."),
    (r"\.feed_forward_norm\.", ".norm_2."),
    (r"^forces\.attention\.", "force_block."),
    (r"^noise\.attention\.", "dens_block."),
    (r"\.attention\.", ".ga."),
    (r"\.conv(\d)\.m0\.", r".so2_linear_\1.fc_m0."),
    (r"\.conv(\d)\.m\.(\d+)\.", r".so2_linear_\1.so2_m_linear.\2.fc."),
    (r"\.project\.", ".proj."),
    (r"\.expand\.", ".so3_linear_1."),
    (r"\.contract\.", ".so3_linear_2."),
    (r"\.feed_forward\.scalars\.", ".ffn.scalar_mlp.0.linear."),
    (r"\.feed_forward\.gates\.", ".ffn.grid_mlp.gating_linear."),
    (r"\.feed_forward\.pair\.", ".ffn.grid_mlp.grid_linear_1."),
    (r"\.feed_forward\.mix\.", ".ffn.grid_mlp.grid_linear_2."),
    (r"\.feed_forward\.", ".ffn."),
    (r"^energy\.mlp\.0\.", "energy_block.linear_1."),
    (r"^energy\.mlp\.2\.", "energy_block.linear_2."),
    (r"^stress\.gates\.", "stress_block.gating_linear."),
    (r"^stress\.", "stress_block."),
    (r"^encode_forces\.", "force_embedding."),
]
_DERIVED = re.compile(
    r"(^distance_expansion\.offset|so3_rotation\.wigner_(index_to_m_array|inv_rescale)|\.expand_index"
    r"|\.balance_degree_weight|so3_grid\.(to|from)_grid_mat|\.zero_padded_change_matrix)$"
)
"""Tables that follow from the options."""


def published_name(name: str) -> str:
    """Name of a parameter in the published models."""
    return rewrite_name(name, _RULES)


def derived(published: str) -> bool:
    """Whether the name `published` belongs to a table that follows from the options."""
    return _DERIVED.search(published) is not None


def load_published(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy published weights into a model of the same options; tables that follow from the options are skipped.

    Raises DataError that names missing weights or wrong shapes.
    """
    copy_named(model, shaped(weights), published_name)


def shaped(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give published weights the shapes of this model: biases of linear maps of coefficients, [1, 1, C], become [C]."""
    return {
        name: weight.flatten() if name.endswith(".bias") and weight.shape[:-1] == (1, 1) else weight
        for name, weight in weights.items()
    }


_OPTIONS = {
    "num_channels": "channels",
    "num_layers": "n_layers",
    "lmax": "lmax",
    "mmax": "mmax",
    "edge_channels": "edge_channels",
    "attn_hidden_channels": "attention_hidden",
    "num_heads": "n_heads",
    "attn_alpha_channels": "alpha_channels",
    "attn_value_channels": "value_channels",
    "ffn_hidden_channels": "ffn_hidden",
    "num_radial_basis": "n_radial",
    "max_radius": "cutoff",
    "attn_weights_drop": "attention_drop",
    "drop_path_rate": "drop_path",
    "attn_eps": "attention_epsilon",
    "avg_num_nodes": "mean_atoms",
    "avg_degree": "mean_degree",
}
_SWIGLU = ("sep-merge_gates2_swiglu", "sep-merge_gates2_swiglu_mem")
_ONLY: dict[str, tuple[Any, ...]] = {
    "norm_type": ("merge_layer_norm",),
    "attn_activation": _SWIGLU,
    "ffn_activation": _SWIGLU,
    **dict.fromkeys(
        (
            *("use_atom_edge_embedding", "use_envelope", "use_attn_renorm", "use_rad_l_parametrization"),
            *("use_grid_mlp", "use_gate_force_head", "enforce_max_neighbors_strictly", "regress_forces"),
        ),
        (True,),
    ),
    "use_add_merge": (False,),
    "use_head_reg": (False,),
    "softcap": (None,),
    **dict.fromkeys(("alpha_drop", "attn_mask_rate", "value_drop", "proj_drop", "ffn_drop"), (0.0, 0)),
}
"""Values of options with which a model is imported; others are refused."""
_WITHOUT_EFFECT = {
    *("name", "model", "use_pbc", "use_pbc_single", "otf_graph", "direct_prediction", "regress_stress"),
    *("max_neighbors", "max_num_elements", "attn_grid_resolution_list", "ffn_grid_resolution_list"),
}
"""Options that do not change the network, or are read separately."""
_DEFAULTS: dict[str, Any] = {
    "num_layers": 12,
    "num_channels": 128,
    "attn_hidden_channels": 64,
    "num_heads": 8,
    "attn_alpha_channels": 32,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 128,
    "edge_channels": 128,
    "num_radial_basis": 600,
    "max_radius": 12.0,
    "lmax": 6,
    "mmax": 2,
    "attn_grid_resolution_list": [20, 8],
    "ffn_grid_resolution_list": [20, 20],
    "attn_weights_drop": 0.1,
    "drop_path_rate": 0.1,
    "attn_eps": 1e-16,
    "avg_num_nodes": 77.81317,
    "avg_degree": 23.395238876342773,
    "max_neighbors": 20,
    "max_num_elements": 128,
    "direct_prediction": True,
    "regress_stress": False,
}
"""Defaults of the published code for missing options."""


def config_from_published(options: Mapping[str, Any], **own: Any) -> EqV3Config:
    """Configuration from the `options` of a published model and further ones of `EqV3Config`.

    Raises ConfigError for an option without a counterpart, and for a grid on which products are not exact.
    """
    given = {**_DEFAULTS, **options}
    if not given["direct_prediction"]:
        given.pop("use_gate_force_head", None)  # there is no such head
    values = renamed_options("eqv3", given, _OPTIONS, only=_ONLY, without_effect=_WITHOUT_EFFECT)
    for name in ("max_num_elements", "max_neighbors"):
        if isinstance(given[name], bool) or not isinstance(given[name], int):
            raise ConfigError(f"{name} = {given[name]!r}: a whole number is expected.")
    is_direct = given["direct_prediction"]
    found = {
        **values,
        "forces": "direct" if is_direct else "gradient",
        "max_neighbors": given["max_neighbors"] if is_direct else 0,
        "max_atomic_number": given["max_num_elements"] - 1,
        "stress_head": "equivariant" if given["regress_stress"] else "none",
        **own,
    }
    config = EqV3Config.parse(found, "model")
    _check_grid("attn_grid_resolution_list", given, config.lmax, config.mmax)
    _check_grid("ffn_grid_resolution_list", given, config.lmax, config.lmax)
    return config


def _check_grid(name: str, given: Mapping[str, Any], lmax: int, mmax: int) -> None:
    grid = given[name]
    is_pair = isinstance(grid, list | tuple) and len(grid) == 2 and all(isinstance(n, int) for n in grid)
    if not is_pair or grid[0] % 2 or grid[0] <= 3 * lmax or grid[1] <= 3 * mmax:
        raise ConfigError(
            f"{name} = {grid!r} with lmax = {lmax} and mmax = {mmax}: products are exact only on an even number of "
            f"latitudes above {3 * lmax} and more than {3 * mmax} longitudes, and eqv3 computes exact products only."
        )
