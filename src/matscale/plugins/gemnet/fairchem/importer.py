"""Import of GemNet-T, -dT and -OC from fairchem v1, for `matscale import fairchem`.

A file holds a plain `gemnet_t` or `gemnet_oc`, or a hydra model with one of them as backbone. Its heads (the last
layers of `gemnet_oc`) are renamed as in the plain model. Scale factors are among the weights; in old files they are in
`scale_dict`, under other names for `gemnet_t`:

    TripInteraction_1_had_rbf = int_blocks.0.trip_interaction.scale_rbf,  OutBlock_0_sum = out_blocks.0.scale_sum,  ...
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from matscale.plugin import ConfigError, DataError, FairchemCheckpoint, Importer, Role
from matscale.plugins.gemnet.config import GemNetConfig
from matscale.plugins.gemnet.fairchem.names import fairchem_name, state_from_fairchem
from matscale.plugins.gemnet.fairchem.options import config_from_fairchem
from matscale.plugins.gemnet.model import GemNet

_DERIVED = re.compile(r".*\brbf\.offset|out_blocks\.\d+\.(layers|seq_energy)\..*")
"""Derived tensors: centres of Gaussians, and second names of layers of the output blocks (`fairchem_name` gives the
first).
"""
_SCALES = [
    (r"TripInteraction_(\d+)_had_rbf", "int_blocks.{}.trip_interaction.scale_rbf", 1),
    (r"TripInteraction_(\d+)_sum_cbf", "int_blocks.{}.trip_interaction.scale_cbf_sum", 1),
    (r"AtomUpdate_(\d+)_sum", "int_blocks.{}.atom_update.scale_sum", 1),
    (r"OutBlock_(\d+)_sum", "out_blocks.{}.scale_sum", 0),
    (r"OutBlock_(\d+)_had", "out_blocks.{}.scale_rbf_F", 0),
]
"""Pattern of each old name of a scale factor, its module, and the number that the first block has in old names."""


def in_one_piece(checkpoint: FairchemCheckpoint) -> FairchemCheckpoint:
    """Convert a hydra model to a plain one, with scale factors among the weights."""
    if checkpoint.model.heads is not None:
        checkpoint = _without_heads(checkpoint)
    factors = checkpoint.section("scale_dict")
    if not factors:
        return checkpoint
    weights = checkpoint.weights
    for name, value in factors.items():
        if name == "comment":
            continue
        factor = torch.as_tensor(value) if isinstance(value, Tensor | float | int) else torch.empty(0)
        if factor.numel() != 1:
            raise DataError(f"{checkpoint.path}: {name} in scale_dict is not a number, as a scale factor must be.")
        place = f"{_module(name.removeprefix('backbone.'))}.scale_factor"
        there = float(weights.get(place, torch.zeros(())))
        if there != 0 and not math.isclose(there, float(factor), rel_tol=1e-5):
            raise DataError(
                f"{checkpoint.path}: the scale factor {name} is {float(factor):g} in scale_dict and {there:g} among "
                "the weights. It is unclear which one is right."
            )
        weights[place] = factor.reshape(())
    return checkpoint.changed(state_dict=weights, scale_dict=None)


def _module(name: str) -> str:
    for pattern, module, first in _SCALES:
        if match := re.fullmatch(pattern, name):
            return module.format(int(match[1]) - first)
    return name


def _without_heads(checkpoint: FairchemCheckpoint) -> FairchemCheckpoint:
    options, name = dict(checkpoint.model.options), str(checkpoint.model.name).removesuffix("_backbone")
    depths = dict(_head(checkpoint, head, name) for head in checkpoint.model.heads or {})
    wanted = {"energy", "forces"} if options.get("direct_forces") else {"energy"}
    if set(depths) != wanted or len(checkpoint.model.heads or {}) != len(wanted):
        raise ConfigError(
            f"{checkpoint.path}: it has heads for {', '.join(sorted(depths)) or 'nothing'}, but a model with its "
            f"options has one for {' and one for '.join(sorted(wanted))}."
        )
    if len(set(depths.values())) > 1:
        raise ConfigError(f"{checkpoint.path}: num_global_out_layers = {depths}: only heads of one depth are imported.")
    options["num_global_out_layers"] = depths["energy"]
    weights = {re.sub(r"^(backbone|output_heads\.[^.]+)\.", "", key): w for key, w in checkpoint.weights.items()}
    return checkpoint.changed(state_dict=weights, config={**checkpoint.config, "model": {"name": name, **options}})


def _head(checkpoint: FairchemCheckpoint, head: str, model: str) -> tuple[str, int | None]:
    """Quantity that a head predicts, and the depth of the head."""
    options = dict(checkpoint.section("config", "model", "heads", head))
    module = options.pop("module", None)
    known = {f"{model}_energy_and_grad_force_head": "energy", f"{model}_force_head": "forces"}
    if module not in known:
        raise ConfigError(f"{checkpoint.path}: its head {head!r} is {module!r}: only {' or '.join(known)} is imported.")
    depth = options.pop("num_global_out_layers", None)
    options.pop("output_init", None)
    if options:
        raise ConfigError(
            f"{checkpoint.path}: unknown option {min(options)} of the head {head!r}: such a head cannot be imported."
        )
    return known[module], depth


def configuration(checkpoint: FairchemCheckpoint) -> GemNetConfig:
    """Configuration of the model in a checkpoint. Raises ConfigError that names the first unsupported option."""
    return config_from_fairchem({"name": checkpoint.model.name, **checkpoint.model.options})


def roles(model: GemNet, names: Iterable[str]) -> dict[str, Role]:
    """Role of each weight: parameters are trained; scale factors are measured once and have no average."""
    trained = {fairchem_name(name, model.config) for name, _ in model.named_parameters()}
    fixed = {fairchem_name(name, model.config) for name, _ in model.named_buffers()}
    found: dict[str, Role] = {}
    for name in names:
        if name in trained or re.fullmatch(r"(out_blocks\.\d+\.)?out_(energy|forces)\.linear\.weight", name):
            found[name] = "trained"
        elif name in fixed:
            found[name] = "fixed"
        elif _DERIVED.fullmatch(name):
            found[name] = "derived"
    return found


def _load(model: GemNet, weights: Mapping[str, Tensor]) -> None:
    model.load_state_dict(state_from_fairchem(model, weights))


def _notes(checkpoint: FairchemCheckpoint) -> list[str]:
    options: dict[str, Any] = checkpoint.model.options
    tags = options.get("qint_tags")
    are_all = tags is None or (isinstance(tags, list) and all(tag in tags for tag in (0, 1, 2)))
    if not options.get("quad_interaction") or are_all:
        return []
    return [
        f"In fairchem only atoms with tags {tags} have quadruplets. Structures in matscale have no tags: all atoms "
        "have quadruplets, as they do in fairchem if the data have no tags."
    ]


IMPORTER = Importer(
    name="gemnet",
    models=("gemnet_t", "gemnet_oc", "gemnet_t_backbone", "gemnet_oc_backbone"),
    normal=in_one_piece,
    config=configuration,
    roles=roles,
    load=_load,
    notes=_notes,
)
