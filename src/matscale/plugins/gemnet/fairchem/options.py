"""Names of the options of `gemnet_t` and `gemnet_oc` in fairchem v1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matscale.plugin import renamed_options
from matscale.plugins.gemnet.config import GemNetConfig

_OPTIONS = {
    "num_blocks": "n_layers",
    "emb_size_atom": "atom_channels",
    "emb_size_edge": "edge_channels",
    "emb_size_trip": "triplet_in",
    "emb_size_bil_trip": "triplet_out",
    "emb_size_trip_in": "triplet_in",
    "emb_size_trip_out": "triplet_out",
    "emb_size_quad_in": "quadruplet_in",
    "emb_size_quad_out": "quadruplet_out",
    "emb_size_aint_in": "pair_in",
    "emb_size_aint_out": "pair_out",
    "num_radial": "n_radial",
    "num_spherical": "n_spherical",
    "emb_size_rbf": "radial_embedding",
    "emb_size_cbf": "circular_embedding",
    "emb_size_sbf": "spherical_embedding",
    "num_before_skip": "n_before_skip",
    "num_after_skip": "n_after_skip",
    "num_concat": "n_concat",
    "num_atom": "n_atom",
    "num_atom_emb_layers": "n_atom_before",
    "num_output_afteratom": "n_output_after",
    "num_global_out_layers": "n_joint_layers",
    "quad_interaction": "quadruplets",
    "atom_edge_interaction": "atom_edge",
    "edge_atom_interaction": "edge_atom",
    "atom_interaction": "atom_atom",
    "cutoff": "cutoff",
    "cutoff_qint": "cutoff_quadruplets",
    "cutoff_aeaint": "cutoff_atom_edge",
    "cutoff_aint": "cutoff_atom_atom",
    "max_neighbors": "max_neighbors",
    "max_neighbors_qint": "max_neighbors_quadruplets",
    "max_neighbors_aeaint": "max_neighbors_atom_edge",
    "max_neighbors_aint": "max_neighbors_atom_atom",
}
_ONLY: dict[str, tuple[Any, ...]] = {
    "rbf": (None, {"name": "gaussian"}),
    "rbf_spherical": (None, {"name": "gaussian"}),
    "envelope": (None, {"name": "polynomial", "exponent": 5}),
    "cbf": (None, {"name": "spherical_harmonics"}),
    "sbf": ({"name": "legendre_outer"},),
    "extensive": (True,),
    "activation": ("swish", "silu"),
    "forces_coupled": (False,),
    "scale_basis": (False,),
    "enforce_max_neighbors_strictly": (True,),
    "use_pbc": (True,),
    "regress_forces": (True,),
}
"""Values of options with which a model is imported; others are refused."""
_WITHOUT_EFFECT = {
    *("use_pbc_single", "otf_graph", "output_init", "scale_file", "scale_backprop_forces", "qint_tags"),
    *("name", "direct_forces", "num_elements"),
}
"""Options that are ignored.

Those in the first line concern sources of edges, initial weights, sources of scale factors, numerics, and tags of
atoms, which structures in matscale do not have. Those in the second line are read separately.
"""
_DEFAULTS = {"max_neighbors": 50, "cutoff": 6.0, "num_elements": 83}


def config_from_fairchem(options: Mapping[str, Any]) -> GemNetConfig:
    """Configuration from the model section of fairchem v1, `name: gemnet_t` or `gemnet_oc`.

    The tags of atoms with quadruplets (`qint_tags`) are ignored: structures in matscale have no tags, and all atoms
    have quadruplets. Raises ConfigError for a value without a counterpart.
    """
    given = {**_DEFAULTS, **{name: value for name, value in options.items() if value is not None}}
    is_oc = "emb_size_trip_in" in given
    if given.get("quad_interaction"):
        given.setdefault("sbf", {"name": "spherical_harmonics"})  # the default
    elif given.get("sbf"):
        del given["sbf"]  # of quadruplets
    values = renamed_options("gemnet", given, _OPTIONS, only=_ONLY, without_effect=_WITHOUT_EFFECT)
    if is_oc:
        values = {**_without_unused(values, given), **_limits_of_oc(given)}
        values.setdefault("n_joint_layers", 2)
    values |= {
        "always_project": not is_oc,
        "image_kept": "above" if is_oc else "below",
        "forces": "direct" if given.get("direct_forces", False) else "gradient",
        "stress_head": "none",
        "max_atomic_number": given["num_elements"],
    }
    return GemNetConfig.parse(values, "model")


def _without_unused(values: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the cutoffs and limits that fairchem ignores, since their interactions are switched off."""
    of_pairs = given.get("atom_edge_interaction") or given.get("edge_atom_interaction")
    used = {
        "quadruplets": given.get("quad_interaction"),
        "atom_edge": of_pairs,
        "atom_atom": given.get("atom_interaction"),
    }
    unused = {f"{kind}_{name}" for name, is_on in used.items() if not is_on for kind in ("cutoff", "max_neighbors")}
    return {name: value for name, value in values.items() if name not in unused}


def _limits_of_oc(given: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of neighbours in the interactions of gemnet_oc that are switched on.

    Missing numbers are copied from those of other interactions, as in fairchem.
    """
    near = given["max_neighbors"]
    found: dict[str, Any] = {}
    if given.get("quad_interaction"):
        found["max_neighbors_quadruplets"] = given.get("max_neighbors_qint") or near
    if given.get("atom_edge_interaction") or given.get("edge_atom_interaction"):
        found["max_neighbors_atom_edge"] = given.get("max_neighbors_aeaint") or near
    if given.get("atom_interaction"):
        found["max_neighbors_atom_atom"] = given.get("max_neighbors_aint") or max(near, *found.values())
    return found
