"""Import of EquiformerV3 from its authors' code, a copy of fairchem v1, for `matscale import fairchem`.

A file holds one model, `equiformer_v3`, or `equiformer_v3_dens` with parameters for denoising. The raw weights have
names; the averaged weights are a list without names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from matscale.plugin import ConfigError, DataError, FairchemCheckpoint, Importer, Role
from matscale.plugins.eqv3.config import EqV3Config
from matscale.plugins.eqv3.fairchem.names import config_from_published, derived, load_published, published_name

_PLAIN, _DENOISING = "equiformer_v3", "equiformer_v3_dens"
_OF_NOISE = "denoising_pos_target"
"""Normalizer of the noise, which a run does not predict."""


def normal(checkpoint: FairchemCheckpoint) -> FairchemCheckpoint:
    """Leave out the normalizer of noise, and split that of a stress in two, for its isotropic and anisotropic part.

    Both have the same scale, since the change from nine components to these parts is orthogonal. Raises DataError if it
    also shifts the components.
    """
    found = {name: value for name, value in checkpoint.section("normalizers").items() if name != _OF_NOISE}
    if checkpoint.model.options.get("direct_prediction", True) and "stress" in found:
        values = found.pop("stress")
        shift = values.get("mean", 0.0) if isinstance(values, dict) else 0.0
        if float(shift) != 0:
            raise DataError(
                f"{checkpoint.path}: the normalizer of stress adds {float(shift):g} to each component. Such a model is "
                "not equivariant and is not imported."
            )
        found |= {"stress_isotropic": values, "stress_anisotropic": values}
    return checkpoint.changed(normalizers=found)


def configuration(checkpoint: FairchemCheckpoint) -> EqV3Config:
    """Configuration of the model in a checkpoint. Raises ConfigError that names the first unsupported option."""
    options: dict[str, Any] = checkpoint.model.options
    if checkpoint.model.heads is not None:
        raise ConfigError(
            f"{checkpoint.path}: EquiformerV3 has its heads inside the model; a model with separate heads is not "
            "imported."
        )
    denoising = checkpoint.model.name == _DENOISING and options.get("direct_prediction", True)
    return config_from_published(options, denoising=bool(denoising))


def roles(model: nn.Module, names: Iterable[str]) -> dict[str, Role]:
    """Role of each weight in `names`: parameters are trained; tables that follow from the options are derived."""
    own = {published_name(name) for name, _ in model.named_parameters()}
    found: dict[str, Role] = {name: "derived" for name in names if derived(name)}
    return found | {name: "trained" for name in names if name in own}


def notes(checkpoint: FairchemCheckpoint) -> list[str]:
    """Notes on the differences between a run and the model of a checkpoint."""
    options = checkpoint.model.options
    if options.get("direct_prediction", True):
        return []
    limit = options.get("max_neighbors", 20)
    return [
        f"All neighbours within the cutoff count, although the file has max_neighbors = {limit}.",
        "Edges within 0.08° of the y axis have their whole force; the published code drops a part of it.",
    ]


IMPORTER = Importer(
    name="eqv3",
    models=(_PLAIN, _DENOISING),
    normal=normal,
    config=configuration,
    roles=roles,
    load=load_published,
    max_atomic_number=lambda config: min(config.max_atomic_number, 118),
    notes=notes,
)
