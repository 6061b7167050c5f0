"""Names of parameters and options in fairchem v2: an `EScAIP_backbone` with its heads.

| escaip | fairchem v2 |
|---|---|
| `input.attributes`, `input.feed_forward` | `backbone.input_block.input_layer`, its `edge_ffn` |
| `blocks.i.attention` | `backbone.transformer_blocks.i.graph_attention` |
| `blocks.i.{atom,edge}_ffn` | `backbone.transformer_blocks.i.feedforward.mlp_{node,edge}` |
| `{atom,edge}_readout` | `backbone.readout_layers` of all stages, and `backbone.output_projection` |
| `energy`, `forces.components`, `forces.magnitude` | layers of the heads, under names of the file's choice |

An inference checkpoint has all parameters twice: raw, and averaged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from matscale.plugin import ConfigError, FairchemCheckpoint, Importer, Role, copy_named, renamed_options, rewrite_name
from matscale.plugins.escaip.config import EScAIPConfig

_RULES: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"backbone\.input_block\.", "input."),
    (r"input_layer\.edge_ffn\.", "feed_forward."),
    (r"input_layer\.", "attributes."),
    (r"backbone\.transformer_blocks\.", "blocks."),
    (r"graph_attention\.(?=source|target|edge_distance|edge_attr)", "attention.attributes."),
    (r"graph_attention\.", "attention."),
    (r"atomic_embedding", "element"),
    (r"direction_embedding\.0", "order"),
    (r"edge_distance_embedding\.0", "distance"),
    (r"edge_attr_linear\.0", "mix"),
    (r"(edge_attr|message)_norm", "norm"),
    (r"node_hidden_linear\.0", "atoms"),
    (r"edge_hidden_linear\.0", "edge"),
    (r"message_linear\.0", "message"),
    (r"attn_in_proj_q", "query"),
    (r"attn_in_proj_k", "key"),
    (r"attn_in_proj_v", "value"),
    (r"attn_out_proj", "out"),
    (r"\bnorm_(?:attn_)?(node|edge)\b", r"\1_norm"),
    (r"norm_ffn_(node|edge)", r"\1_ffn_norm"),
    (r"feedforward\.mlp_(node|edge)", r"\1_ffn"),
    (r"backbone\.readout_layers\.(\d+)\.(node|edge)_ffn", r"\2_readout.feed_forwards.\1"),
    (r"backbone\.readout_layers\.(\d+)\.pre_(node|edge)_norm", r"\2_readout.norms.\1"),
    (r"backbone\.output_projection\.(node|edge)_projection\.0", r"\1_readout.projection"),
    (r"backbone\.output_projection\.output_norm_(node|edge)", r"\1_readout.norm"),
    (r"output_heads\.(?:energy|efs)\.node_norm", "energy.mlp.norm"),
    (r"output_heads\.(?:energy|efs)\.energy_layer", "energy.mlp"),
    (r"output_heads\.forces\.force_direction_layer", "forces.components"),
    (r"output_heads\.forces\.force_magnitude_layer", "forces.magnitude"),
    (r"output_heads\.", ""),
    (r"ffn\.0\.0|feed_forward\.0\.0|(feed_forwards\.\d+)\.0\.0", lambda m: (m[1] or m[0][: -len(".0.0")]) + ".0"),
    (r"ffn\.1\.0|feed_forward\.1\.0|(feed_forwards\.\d+)\.1\.0", lambda m: (m[1] or m[0][: -len(".1.0")]) + ".2"),
    (r"mlp\.ffn|(components|magnitude)\.ffn", lambda m: (m[1] or "mlp") + ".feed_forward"),
    (r"final_output\.0", "out"),
    (r"\bnode_", "atom_"),
]
"""Patterns in names of fairchem and their replacements in matscale's names, applied in this order.

Heads are `energy` and `forces`, or `efs` in gradient models.
"""


def our_name(name: str) -> str:
    """Name of a parameter in matscale, from its name in fairchem."""
    return rewrite_name(name, _RULES)


def load_fairchem(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy published weights into a model of the same options.

    Raises DataError that names missing weights or wrong shapes.
    """
    published = {our_name(name): name for name in weights}
    copy_named(model, weights, lambda name: published.get(name, name))


def roles(model: nn.Module, names: Iterable[str]) -> dict[str, Role]:
    """Role of each weight: all are trained, but a gradient model does not use the norm of its energy head."""
    own = {name for name, _ in model.named_parameters()}
    found: dict[str, Role] = {name: "trained" for name in names if our_name(name) in own}
    return found | {name: "derived" for name in names if name == "output_heads.efs.node_norm.weight"}


_OPTIONS = {
    "hidden_size": "hidden",
    "num_layers": "n_layers",
    "atten_num_heads": "n_heads",
    "freequency_list": "degree_channels",
    "ffn_hidden_layer_multiplier": "ffn_factor",
    "atom_embedding_size": "atom_channels",
    "node_direction_embedding_size": "order_channels",
    "node_direction_expansion_size": "n_order",
    "edge_distance_embedding_size": "distance_channels",
    "edge_distance_expansion_size": "n_radial",
    "max_radius": "cutoff",
    "knn_k": "n_neighbors",
    "knn_pad_size": "max_neighbors",
    "knn_sigmoid_scale": "rank_width",
    "knn_lse_scale": "rank_sharpness",
}
_DEFAULTS = {
    "atom_embedding_size": 128,
    "node_direction_embedding_size": 64,
    "node_direction_expansion_size": 10,
    "edge_distance_embedding_size": 512,
    "edge_distance_expansion_size": 600,
    "freequency_list": [20, 10, 4, 10, 20],
    "ffn_hidden_layer_multiplier": 2,
    "readout_hidden_layer_multiplier": 2,
    "output_hidden_layer_multiplier": 2,
}
"""Defaults of fairchem v2 for missing options, where escaip has other defaults."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "activation": ("gelu",),
    "normalization": ("rmsnorm",),
    "energy_reduce": ("sum",),
    "distance_function": ("gaussian",),
    "use_angle_embedding": ("none",),
    "use_envelope": (True,),
    "use_frequency_embedding": (True,),
    "use_graph_attention": (False,),
    "use_message_gate": (False,),
    "use_global_readout": (False,),
    "use_fp16_backbone": (False,),
    "use_pbc": (True,),
    "knn_soft": (True,),
    "regress_forces": (True,),
}
"""Values of options with which a model is imported; others are refused."""
_WITHOUT_EFFECT = {
    *("use_compile", "use_padding", "max_atoms", "max_batch_size", "knn_use_low_mem", "atten_name", "dataset_list"),
    *("mlp_dropout", "atten_dropout", "stochastic_depth_prob", "node_ffn_dropout", "edge_ffn_dropout"),
    *("scalar_output_dropout", "vector_output_dropout"),
    *("direct_forces", "regress_stress", "max_num_elements", "readout_hidden_layer_multiplier"),
    "output_hidden_layer_multiplier",
}
"""Options that are ignored.

Options in the first line concern speed and memory, options in the next two lines only training; the others are read
separately.
"""


def config_from_fairchem(options: Mapping[str, Any]) -> EScAIPConfig:
    """Configuration from the options of an `EScAIP_backbone`.

    Raises ConfigError for an option without a counterpart.
    """
    given = {**_DEFAULTS, **options}
    values = renamed_options("escaip", given, _OPTIONS, only=_ONLY, without_effect=_WITHOUT_EFFECT)
    for name in ("readout_hidden_layer_multiplier", "output_hidden_layer_multiplier"):
        if given[name] != given["ffn_hidden_layer_multiplier"]:
            raise ConfigError(
                f"{name} = {given[name]!r}: escaip needs one value for all networks, but ffn_hidden_layer_multiplier = "
                f"{given['ffn_hidden_layer_multiplier']!r}. Such a model cannot be imported."
            )
    rows = given.get("max_num_elements")
    if not isinstance(rows, int):
        raise ConfigError(f"max_num_elements = {rows!r}: a whole number is expected.")
    forces = "direct" if given.get("direct_forces") else "gradient"
    return EScAIPConfig.parse(
        {**values, "forces": forces, "stress_head": "none", "max_atomic_number": min(rows - 1, 118)}, "model"
    )


_HEADS = {
    "EScAIP_energy_head": "energy",
    "EScAIP_direct_force_head": "forces",
    "EScAIP_grad_energy_force_stress_head": "efs",
}
"""Name in matscale of each head module of fairchem."""


def with_our_heads(checkpoint: FairchemCheckpoint) -> FairchemCheckpoint:
    """Rename heads to the names that `our_name` knows. Raises ConfigError for unexpected heads."""
    named: dict[str, str] = {}
    for head in checkpoint.model.heads or {}:
        options = dict(checkpoint.section("config", "model", "heads", head))
        module = options.pop("module", None)
        if not isinstance(module, str) or module not in _HEADS:
            raise ConfigError(
                f"{checkpoint.path}: its head {head!r} is {module!r}: only {', '.join(_HEADS)} are imported."
            )
        if unknown := sorted(set(options) - {"prefix", "wrap_property"}):
            raise ConfigError(
                f"{checkpoint.path}: unknown option {unknown[0]!r} of the head {head!r}: such heads cannot be imported."
            )
        named[head] = _HEADS[module]
    wanted = ["energy", "forces"] if checkpoint.model.options.get("direct_forces") else ["efs"]
    if sorted(named.values()) != wanted:
        modules = [module for module, name in _HEADS.items() if name in wanted]
        raise ConfigError(
            f"{checkpoint.path}: its heads are {', '.join(sorted(named)) or 'none'}, but a model with its options has "
            f"one {' and one '.join(modules)}. A model with heads for several data sets cannot be imported."
        )
    states = {
        key: {_with_head(name, named): weight for name, weight in weights.items()}
        for key, weights in (("state_dict", checkpoint.weights), ("averaged_state_dict", checkpoint.averaged))
        if weights
    }
    return checkpoint.changed(**states)


def _with_head(name: str, named: Mapping[str, str]) -> str:
    """Replace the head in a weight's name, such as `output_heads.omat_energy.…`, by the name that matscale uses."""
    place, _, rest = name.partition(".")
    head, _, rest = rest.partition(".")
    return f"{place}.{named[head]}.{rest}" if place == "output_heads" and head in named else name


def _configuration(checkpoint: FairchemCheckpoint) -> EScAIPConfig:
    return config_from_fairchem(checkpoint.model.options)


IMPORTER = Importer(
    name="escaip",
    models=("EScAIP_backbone", "fairchem.core.models.escaip.EScAIP.EScAIPBackbone"),
    normal=with_our_heads,
    config=_configuration,
    roles=roles,
    load=load_fairchem,
)
