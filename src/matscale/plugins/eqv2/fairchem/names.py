"""Names of parameters and options in fairchem v1's published models, one to one with those of eqv2.

| eqv2 | fairchem v1 |
|---|---|
| `element` | `backbone.sphere_embedding` |
| `edge_degree.radial.{source,target}` | `backbone.edge_degree_embedding.{source,target}_embedding` |
| `edge_degree.radial.net.N` | `backbone.edge_degree_embedding.rad_func.net.N` |
| `blocks.i.attention_norm`, `.feed_forward_norm` | `backbone.blocks.i.norm_1`, `.norm_2` |
| `blocks.i.attention` | `backbone.blocks.i.ga` |
| `…edge_function.radial.{source,target}` | `….{source,target}_embedding` |
| `…edge_function.radial.net.N` | `….so2_conv_1.rad_func.net.N` |
| `…edge_function.convK.m0`, `.m.N` | `….so2_conv_K.fc_m0`, `.so2_m_conv.N.fc` |
| `…project` | `….proj` |
| `blocks.i.feed_forward` | `backbone.blocks.i.ffn` |
| `….expand`, `.contract` | `….so3_linear_1`, `.so3_linear_2` |
| `….scalars.0`, `.pointwise.N` | `….scalar_mlp.0`, `.grid_mlp.N` |
| norms: `.scalars`, `.weight`, `.bias` | `.norm_l0`, `.affine_weight`, `.affine_bias` |
| `energy.feed_forward` | `output_heads.energy.energy_block` |
| `forces.attention` | `output_heads.forces.force_block` |
| `stress.harmonics_norm`, `.edge_norm` | `output_heads.stress.sphharm_norm`, `.xedge_layer_norm` |
| `stress.isotropic`, `.anisotropic` | `output_heads.stress.block.scalar_MLP`, `.irrep2_MLP` |

The other tensors of fairchem (grids, index tables, centres of the Gaussians) follow from the options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from matscale.plugin import ConfigError, copy_named, rewrite_name
from matscale.plugins.eqv2.config import EqV2Config

_RULES = [
    (r"^element\.", "backbone.sphere_embedding."),
    (r"^edge_degree\.radial\.net\.", "backbone.edge_degree_embedding.rad_func.net."),
    (r"^edge_degree\.radial\.(source|target)\.", r"backbone.edge_degree_embedding.\1_embedding."),
    (r"^blocks\.", "backbone.blocks."),
    (r"^norm\.", "backbone.norm."),
    (r"^energy\.feed_forward\.", "output_heads.energy.energy_block."),
    (r"^forces\.attention\.", "output_heads.forces.force_block."),
    (r"^stress\.harmonics_norm\.", "output_heads.stress.sphharm_norm."),
    (r"^stress\.edge_norm\.", "output_heads.stress.xedge_layer_norm."),
    (r"^stress\.isotropic\.", "output_heads.stress.block.scalar_MLP."),
    (r"^stress\.anisotropic\.", "output_heads.stress.block.irrep2_MLP."),
    (r"^stress\.feed_forward\.", "output_heads.stress.feed_forward."),  # has no counterpart
    (r"\.(attention_norm|feed_forward_norm|sphharm_norm|backbone\.norm)\.scalars\.", r".\1.norm_l0."),
    (r"^backbone\.norm\.scalars\.", "backbone.norm.norm_l0."),
    (r"(attention_norm|feed_forward_norm|sphharm_norm|^backbone\.norm)\.(weight|bias)$", r"\1.affine_\2"),
    (r"\.attention_norm\.", ".norm_1."),
    (r"\.feed_forward_norm\.", ".norm_2."),
    (r"\.attention\.", ".ga."),
    (r"^(backbone.*)\.feed_forward\.", r"\1.ffn."),
    (r"\.edge_function\.radial\.(source|target)\.", r".\1_embedding."),
    (r"\.edge_function\.radial\.net\.", ".so2_conv_1.rad_func.net."),
    (r"\.edge_function\.conv(\d)\.m0\.", r".so2_conv_\1.fc_m0."),
    (r"\.edge_function\.conv(\d)\.m\.(\d+)\.", r".so2_conv_\1.so2_m_conv.\2.fc."),
    (r"\.project\.", ".proj."),
    (r"\.expand\.", ".so3_linear_1."),
    (r"\.contract\.", ".so3_linear_2."),
    (r"\.scalars\.(\d)\.", r".scalar_mlp.\1."),
    (r"\.pointwise\.", ".grid_mlp."),
]


def fairchem_name(name: str) -> str:
    """Name of a parameter in fairchem's published models."""
    return rewrite_name(name, _RULES)


def published_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters as arXiv:2509.21811 counts them: `total` and `non_embedding`.

    `non_embedding` leaves out all parameters whose name in fairchem contains "embedding", also the radial network of
    the edge-degree embedding. Elsewhere, matscale counts with `count_parameters` of `matscale.plugin`, which leaves out
    look-up tables only.
    """
    sizes = {fairchem_name(name): p.numel() for name, p in model.named_parameters()}
    non_embedding = sum(size for name, size in sizes.items() if "embedding" not in name)
    return {"total": sum(sizes.values()), "non_embedding": non_embedding}


_DERIVED = re.compile(
    r"\.(expand_index|balance_degree_weight|distance_expansion\.offset|(to|from)_grid_mat"
    r"|(mapping|mappingReduced)\.(l_harmonic|m_harmonic|m_complex|m_size|res_size|to_m))$"
)


def derived(published: str) -> bool:
    """Whether the name `published` belongs to a table that follows from the options."""
    return _DERIVED.search(published) is not None


def load_fairchem(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy published weights into a model of the same options; skip tables that follow from the options.

    Raises DataError that names missing weights or wrong shapes.
    """
    copy_named(model, weights, fairchem_name)


_OPTIONS = {
    "sphere_channels": "channels",
    "num_layers": "n_layers",
    "edge_channels": "edge_channels",
    "attn_hidden_channels": "attention_hidden",
    "num_heads": "n_heads",
    "attn_alpha_channels": "alpha_channels",
    "attn_value_channels": "value_channels",
    "ffn_hidden_channels": "ffn_hidden",
    "grid_resolution": "grid_resolution",
    "norm_type": "norm",
    "max_radius": "cutoff",
    "max_neighbors": "max_neighbors",
    "enforce_max_neighbors_strictly": "strict_neighbors",
    "alpha_drop": "alpha_drop",
    "drop_path_rate": "drop_path",
    "proj_drop": "proj_drop",
    "weight_init": "weight_init",
    "avg_num_nodes": "mean_atoms",
    "avg_degree": "mean_degree",
}
"""Name in eqv2 of each option of fairchem that has the same meaning."""

_FIXED: dict[str, Any] = {
    "use_atom_edge_embedding": True,
    "share_atom_edge_embedding": False,
    "use_m_share_rad": False,
    "distance_function": "gaussian",
    "use_attn_renorm": True,
    "use_s2_act_attn": False,
    "use_gate_act": False,
    "use_grid_mlp": True,
    "use_sep_s2_act": True,
    "use_energy_lin_ref": False,
    "load_energy_lin_ref": False,
    "use_pbc": True,
}
"""Only supported value of each of these options, as in every OMat24 model; others mean another network or graph."""

_DEFAULTS: dict[str, Any] = {
    "sphere_channels": 128,
    "num_layers": 12,
    "edge_channels": 128,
    "attn_hidden_channels": 128,
    "num_heads": 8,
    "attn_alpha_channels": 32,
    "attn_value_channels": 16,
    "ffn_hidden_channels": 512,
    "grid_resolution": None,
    "norm_type": "rms_norm_sh",
    "max_radius": 5.0,
    "max_neighbors": 500,
    "enforce_max_neighbors_strictly": True,
    "alpha_drop": 0.1,
    "drop_path_rate": 0.05,
    "proj_drop": 0.0,
    "weight_init": "normal",
    "avg_num_nodes": 77.81317,
    "avg_degree": 23.395238876342773,
    "max_num_elements": 90,
    "lmax_list": [6],
    "mmax_list": [2],
    "use_grid_mlp": False,
}
"""Defaults of fairchem 1.10 for options that are missing or null, where eqv2 has other defaults."""

_WITHOUT_EFFECT = {
    *("model", "num_distance_basis", "num_sphere_samples", "attn_activation", "ffn_activation"),
    *("use_pbc_single", "otf_graph", "regress_forces", "regress_stress", "activation_checkpoint"),
}
"""Options that do not change the network.

Fairchem ignores the options in the first line (it always uses 600 Gaussians and SiLU); those in the second line concern
graphs, tasks and memory.
"""


def config_from_fairchem(backbone: Mapping[str, Any], **options: Any) -> EqV2Config:
    """Configuration from the options of a published backbone and further `options` of `EqV2Config`.

    Raises ConfigError for an option without a counterpart.
    """
    values: dict[str, Any] = {"stress_head": "rank2", **options}
    given = {key: value for key, value in backbone.items() if value is not None or key not in _DEFAULTS}
    for key, value in (given | {k: v for k, v in _DEFAULTS.items() if k not in given}).items():
        if isinstance(value, Tensor):
            raise ConfigError(f"{key} is a tensor: an option of the backbone has to be a number, a text or a list.")
        if key in _OPTIONS:
            values[_OPTIONS[key]] = value
        elif key in ("lmax_list", "mmax_list"):
            if not isinstance(value, list | tuple) or len(value) != 1:
                raise ConfigError(
                    f"{key} = {value!r}: only models of one resolution are supported, as a list of one number like [4]."
                )
            values[key.removesuffix("_list")] = value[0]
        elif key == "max_num_elements":
            if not isinstance(value, int):
                raise ConfigError(f"{key} = {value!r}: a whole number is expected.")
            values["max_atomic_number"] = value - 1
        elif key in _FIXED:
            if value != _FIXED[key]:
                raise ConfigError(f"{key} = {value!r}: only {_FIXED[key]!r}, as in the OMat24 models, is supported.")
        elif key not in _WITHOUT_EFFECT:
            raise ConfigError(
                f"unknown option {key} = {value!r} of an EquiformerV2 backbone: such a model cannot be imported."
            )
    return EqV2Config.parse(values, "backbone")


def fairchem_from_config(config: EqV2Config) -> dict[str, Any]:
    """Options of an `equiformer_v2_backbone` for this network: the inverse of `config_from_fairchem`.

    Raises ConfigError that names the first option without a counterpart in fairchem, and what to do.
    """
    ours = config.plain()
    backbone = {"model": "equiformer_v2_backbone", **{theirs: ours[name] for theirs, name in _OPTIONS.items()}}
    backbone |= {"lmax_list": [config.lmax], "mmax_list": [config.mmax]}
    backbone["max_num_elements"] = config.max_atomic_number + 1
    backbone |= {key: value for key, value in _FIXED.items() if "lin_ref" not in key}
    backbone |= {"use_pbc_single": True, "otf_graph": True}
    if config.forces == "gradient":  # before max_neighbors, which has to be 0 with it
        raise ConfigError(_not_in_fairchem("forces", "gradient"))
    if config.is_smooth:
        raise ConfigError(_not_in_fairchem("max_neighbors", 0))
    back = config_from_fairchem(backbone, stress_head="none" if config.stress_head == "none" else "rank2").plain()
    for name, value in ours.items():
        if back[name] != value:
            raise ConfigError(_not_in_fairchem(name, value))
    return backbone


_INSTEAD = {
    "stress_head": "Train with --set architecture.config.stress_head=rank2.",
    "forces": "Train with --set architecture.config.forces=direct --set architecture.config.stress_head=rank2 "
    "--set architecture.config.max_neighbors=20.",
    "max_neighbors": "Train with a neighbour rule, as the published models have: "
    "--set architecture.config.max_neighbors=20.",
    "n_radial": "It always has 600: train with --set architecture.config.n_radial=600.",
}


def _not_in_fairchem(name: str, value: Any) -> str:
    hint = _INSTEAD.get(name, f"Train with another {name}: its default is {EqV2Config().plain()[name]!r}.")
    return f"{name} = {value!r}: fairchem v1 has no counterpart for it. {hint}"
