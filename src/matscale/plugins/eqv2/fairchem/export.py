r"""Export of a trained EquiformerV2 as a checkpoint of fairchem v1, for fairchem's calculator and trainer.

    rmsd_E, rmsd_F = scales of energy and forces
    rmsd_part, mean_part = stress scale · (scale, shift) of that part in the stress head

The element references stay as they are.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from matscale.plugin import Potential, __version__
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.fairchem.names import fairchem_from_config, fairchem_name
from matscale.plugins.eqv2.fairchem.tables import fairchem_tables
from matscale.plugins.eqv2.heads import Rank2StressHead
from matscale.plugins.eqv2.model import EqV2

_HEADS = {"energy": "equiformer_v2_energy_head", "forces": "equiformer_v2_force_head", "stress": "rank2_symmetric_head"}
_PARTS = {"stress_isotropic": 0, "stress_anisotropic": 2}
"""Degree l of each part of the stress."""


def content(potential: Potential) -> dict[str, Any]:
    """Make the content of the checkpoint file.

    Raises ConfigError that names an option without a counterpart in fairchem.
    """
    model = potential.model
    assert isinstance(model, EqV2)
    config = _config(model.config)  # first: it refuses what has no counterpart
    weights = {fairchem_name(name): p.detach().float().cpu() for name, p in model.named_parameters()}
    found = {
        "state_dict": OrderedDict({**weights, **fairchem_tables(model.config)}),
        "normalizers": _normalizers(potential),
        "config": config,
        "val_metrics": None,
        "amp": None,
    }
    if potential.references.any():
        found["elementrefs"] = {"energy": {"element_references": potential.references.cpu()}}
    return found


def _normalizers(potential: Potential) -> dict[str, dict[str, Tensor]]:
    energy, forces, stress = potential.scales.cpu()
    zero = torch.zeros_like(energy)
    found = {"energy": {"mean": zero, "rmsd": energy}, "forces": {"mean": zero, "rmsd": forces}}
    head = getattr(potential.model, "stress", None)
    if isinstance(head, Rank2StressHead):
        for name, (scale, shift) in zip(_PARTS, head.normalisers.double().cpu()):
            found[name] = {"mean": stress * shift, "rmsd": stress * scale}
    return {name: {key: value.clone() for key, value in pair.items()} for name, pair in found.items()}


def _config(config: EqV2Config) -> dict[str, Any]:
    """Configuration in the form that fairchem's trainer expects.

    The entries for optimizer, losses and data are placeholders: fairchem's calculator needs only their keys.
    """
    heads: dict[str, dict[str, Any]] = {"energy": {"module": _HEADS["energy"]}, "forces": {"module": _HEADS["forces"]}}
    outputs: dict[str, dict[str, Any]] = {
        "energy": {"shape": 1, "level": "system", "property": "energy"},
        "forces": {"irrep_dim": 1, "level": "atom", "property": "forces", **_ON_ALL_ATOMS},
    }
    if config.stress_head != "none":
        options = {"decompose": True, "use_source_target_embedding": True, "default_norm_type": config.norm}
        heads["stress"] = {"module": _HEADS["stress"], "output_name": "stress", **options}
        parts = {name: {"irrep_dim": degree, "level": "system", "parent": "stress"} for name, degree in _PARTS.items()}
        outputs["stress"] = {"level": "system", "property": "stress", "irrep_dim": 2, "decomposition": parts}
    losses = [{"energy": {"fn": "per_atom_mae", "coefficient": 2.5}}, {"forces": {"fn": "l2mae", "coefficient": 20}}]
    return {
        "task": {},
        "trainer": "ocp",
        "model": {
            "name": "hydra",
            "pass_through_head_outputs": True,
            "otf_graph": True,
            "backbone": fairchem_from_config(config),
            "heads": heads,
        },
        "outputs": outputs,
        "optim": {},
        "loss_functions": losses,
        "evaluation_metrics": {"metrics": {"energy": ["mae"], "forces": ["mae"]}, "primary_metric": "forces_mae"},
        "dataset": {"src": ""},
        "amp": False,
        "cmd": {"version": f"matscale {__version__}", "seed": 0},
    }


_ON_ALL_ATOMS = {"train_on_free_atoms": True, "eval_on_free_atoms": True}
