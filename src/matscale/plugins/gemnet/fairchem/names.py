"""Names of parameters and scale factors in fairchem v1: `gemnet_t` and `gemnet_oc`.

| gemnet | fairchem v1 |
|---|---|
| `element`, `edge` | `atom_emb.embeddings`, `edge_emb.dense.linear` |
| `project.triplet_{radial,circular}` | `mlp_{rbf,cbf}_tint`, of gemnet_t `mlp_{rbf,cbf}3` |
| `project.{quadruplet,atom_edge,edge_atom}_{radial,circular}` | `mlp_{rbf,cbf}_{qint,aeint,eaint}` |
| `project.{update,output,atom_atom,quadruplet_spherical}` | `mlp_{rbf_h,rbf_out,rbf_aint,sbf_qint}` |
| `blocks.i`, `outputs.i` | `int_blocks.i`, `out_blocks.i` |
| `….{triplet,quadruplet,atom_edge,edge_atom,atom_atom}` | `….{trip,quad,atom_edge,edge_atom,atom}_interaction` |
| `….narrow.{dense,radial,project}` | `….{dense_ba,mlp_rbf,down_projection}`, of quadruplets `dense_db` |
| `….narrow.scale`, `.scale` | `….scale_rbf`, `.scale_cbf_sum` and the like |
| `….bilinear` | `….mlp_cbf` and the like |
| `….up.{same,reverse}` | `….up_projection_{ca,ac}` |
| `blocks.i.{skip,before_skip,after_skip}` | `….{dense_ca,layers_before_skip,layers_after_skip}` |
| `blocks.i.{concat,after_concat}` | `….{concat_layer,residual_m}` |
| `blocks.i.{atom_before,atom_sum,atom}` | `….{atom_emb_layers,atom_update,atom_update.layers}` |
| `outputs.i.{atom,atom_after,edge}` | `….{seq_energy,seq_energy2,seq_forces}`, of gemnet_oc `seq_energy_pre` |
| `energy`, `along` | `out_mlp_E` and `out_energy`, `out_mlp_F` and `out_forces`; of gemnet_t those of its out_blocks |

Weights with a basis of angles have other layouts: `_published`. Centres of Gaussians follow from the options.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from matscale.plugin import DataError, rewrite_name
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.model import GemNet

_SHORT = {"triplet": "tint", "quadruplet": "qint", "atom_edge": "aeint", "edge_atom": "eaint"}

_RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^element\.", "atom_emb.embeddings."),
    (r"^edge\.weight", "edge_emb.dense.linear.weight"),
    (r"^project\.update\.weight", "mlp_rbf_h.linear.weight"),
    (r"^project\.output\.weight", "mlp_rbf_out.linear.weight"),
    (r"^project\.atom_atom\.weight", "mlp_rbf_aint.weight"),
    (r"^project\.quadruplet_spherical", "mlp_sbf_qint.weight"),
    (r"^project\.(\w+)_radial\.weight", lambda m: f"mlp_rbf_{_SHORT[m[1]]}.linear.weight"),
    (r"^project\.(\w+)_circular", lambda m: f"mlp_cbf_{_SHORT[m[1]]}.weight"),
    (r"^energy\.joint\.", "out_mlp_E."),
    (r"^along\.joint\.", "out_mlp_F."),
    (r"^outputs\.", "out_blocks."),
    (r"^blocks\.(\d+)\.(atom_edge|edge_atom)\.", r"int_blocks.\1.\2_interaction."),
    (r"^blocks\.(\d+)\.atom_atom\.", r"int_blocks.\1.atom_interaction."),
    (r"^blocks\.(\d+)\.(trip|quad)r?u?p?let\.", r"int_blocks.\1.\2_interaction."),
    (r"^blocks\.", "int_blocks."),
    (r"(quad_interaction.*)\.narrow\.dense\.", r"\1.dense_db."),
    (r"\.narrow\.dense\.", ".dense_ba."),
    (r"\.narrow\.radial\.", ".mlp_rbf."),
    (r"\.narrow\.scale\.", ".scale_rbf."),
    (r"\.narrow\.project\.", ".down_projection."),
    (r"(\.atom_interaction)\.project\.", r"\1.down_projection."),
    (r"(\.atom_interaction)\.scale\.", r"\1.scale_rbf_sum."),
    (r"(\.atom_interaction)\.up\.", r"\1.up_projection."),
    (r"(\.edge_atom_interaction)\.up\.", r"\1.up_projection_ca."),
    (r"(quad_interaction)\.circular\.", r"\1.mlp_cbf."),
    (r"(quad_interaction)\.circular_scale\.", r"\1.scale_cbf."),
    (r"(quad_interaction)\.bilinear\.", r"\1.mlp_sbf.bilinear."),
    (r"(quad_interaction)\.scale\.", r"\1.scale_sbf_sum."),
    (r"((?:trip|edge|atom)_interaction)\.scale\.", r"\1.scale_cbf_sum."),
    (r"((?:trip|atom_edge|edge_atom)_interaction)\.bilinear\.", r"\1.mlp_cbf.bilinear."),
    (r"\.up\.same\.", ".up_projection_ca."),
    (r"\.up\.reverse\.", ".up_projection_ac."),
    (r"\.skip\.", ".dense_ca."),
    (r"\.before_skip\.", ".layers_before_skip."),
    (r"\.after_skip\.", ".layers_after_skip."),
    (r"\.concat\.weight", ".concat_layer.dense.linear.weight"),
    (r"\.after_concat\.", ".residual_m."),
    (r"\.atom_before\.", ".atom_emb_layers."),
    (r"^(int_blocks\.\d+)\.atom_sum\.radial\.", r"\1.atom_update.dense_rbf."),
    (r"^(int_blocks\.\d+)\.atom_sum\.scale\.", r"\1.atom_update.scale_sum."),
    (r"^(int_blocks\.\d+)\.atom\.", r"\1.atom_update.layers."),
    (r"\.atom_sum\.radial\.", ".dense_rbf."),
    (r"\.atom_sum\.scale\.", ".scale_sum."),
    (r"^(out_blocks\.\d+)\.atom\.", r"\1.layers."),
    (r"\.atom_after\.", ".seq_energy2."),
    (r"\.edge_radial\.", ".dense_rbf_F."),
    (r"\.edge_scale\.", ".scale_rbf_F."),
    (r"^(out_blocks\.\d+)\.edge\.", r"\1.seq_forces."),
    (r"\.first\.", ".dense_mlp.0."),
    (r"\.second\.", ".dense_mlp.1."),
    (r"\.factor$", ".scale_factor"),
]
_OF_LINEAR = re.compile(r"(?!mlp_([cs]bf|rbf_aint)|atom_emb|.*\.linear\.weight).*\.weight$")
"""Names of the weights that fairchem keeps in a submodule `linear` of a dense layer."""


def fairchem_name(name: str, config: GemNetConfig) -> str:
    """Name of a parameter or scale factor in fairchem's model: gemnet_t if outputs are added, otherwise gemnet_oc."""
    name = rewrite_name(name, _RULES)
    if _OF_LINEAR.match(name):
        name = name.removesuffix("weight") + "linear.weight"
    if config.n_joint_layers is None:
        name = re.sub(r"^mlp_([rc]bf)_tint", r"mlp_\g<1>3", name)
        return name.replace("trip_interaction.mlp_cbf.bilinear.linear.", "trip_interaction.mlp_cbf.")
    return re.sub(r"^(out_blocks\.\d+)\.layers\.", r"\1.seq_energy_pre.", name)


def state_from_fairchem(model: GemNet, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Convert published weights of the same options to a state for `model`, scale factors included.

    Raises DataError that names missing weights or wrong shapes.
    """
    state = {}
    for name, own in model.state_dict().items():
        value = _published(name, own, weights, model.config)
        _check_shape(fairchem_name(name, model.config), value, list(own.shape))
        state[name] = value.to(own.dtype)
    return state


def _check_shape(name: str, value: Tensor, needed: list[int]) -> None:
    if list(value.shape) != needed:
        raise DataError(
            f"{name} has shape {list(value.shape)} where {needed} is needed: the weights are those of a model with "
            "other options."
        )


def _published(name: str, own: Tensor, weights: Mapping[str, Tensor], config: GemNetConfig) -> Tensor:
    """Published tensor of the parameter `name`, in the layout that it has in matscale."""
    if name in ("energy.out", "along.out"):
        return _last_layer("out_energy" if name == "energy.out" else "out_forces", weights, config)
    published = fairchem_name(name, config)
    value = _find(published, weights)
    if name.endswith(("_circular", "_spherical")):
        n_radial, n_embedding, n_angular = own.shape
        if config.n_joint_layers is None:
            _check_shape(published, value, [n_angular, n_radial, n_embedding])
            return value.permute(1, 2, 0)
        _check_shape(published, value, [n_radial, n_angular, n_embedding])
        return value.reshape(own.shape)  # declared as [R, L, I], but used as [R, I, L]
    if value.dim() == 3:
        return value.permute(2, 1, 0).flatten(1)  # a bilinear map [C, I, n_out]
    return value


def _last_layer(name: str, weights: Mapping[str, Tensor], config: GemNetConfig) -> Tensor:
    if config.n_joint_layers is not None:
        return _find(f"{name}.linear.weight", weights)[None]
    names = [f"out_blocks.{k}.{name}.linear.weight" for k in range(config.n_layers + 1)]
    for each in names:
        _check_shape(each, _find(each, weights), list(_find(names[0], weights).shape))
    return torch.stack([weights[each] for each in names])


def _find(name: str, weights: Mapping[str, Tensor]) -> Tensor:
    if name not in weights:
        raise DataError(f"the weights have no {name!r}: they are those of a model with other options.")
    return weights[name]
