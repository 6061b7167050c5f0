"""Choice of weights in a file: averaged (EMA) or raw, with names or in a list without names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import Tensor

from matscale.core.errors import ConfigError, DataError
from matscale.core.fairchem.checkpoint import FairchemCheckpoint
from matscale.core.fairchem.importer import Role

Choice = Literal["auto", "ema", "raw"]
Kind = Literal["ema", "raw"]


def chosen(checkpoint: FairchemCheckpoint, roles: Mapping[str, Role], choice: Choice) -> tuple[dict[str, Tensor], Kind]:
    """Choose weights, by published name, and return their kind; `auto` takes averaged weights if the file has them.

    Raises DataError for a weight with an unknown name, ConfigError for weights that are not in the file.
    """
    named = checkpoint.weights
    if unknown := [name for name in {**named, **(checkpoint.averaged or {})} if name not in roles]:
        raise DataError(
            f"{checkpoint.path}: {unknown[0]} ({len(unknown)} such) is not a weight of this model. The file may have "
            "another head."
        )
    listed, by_name = checkpoint.average, checkpoint.averaged
    named_kind: Kind = "ema" if checkpoint.named_are_averaged and by_name is None else "raw"
    held = {named_kind} if listed is None and by_name is None else {named_kind, "ema"}
    which: Kind = "raw" if choice == "raw" or (choice == "auto" and held == {"raw"}) else "ema"
    if which == named_kind:
        return named, which
    if which == "ema" and by_name is not None:
        return by_name, which
    if which == "ema" and listed is not None:
        return {**named, **_with_names(checkpoint, named, listed, roles)}, which
    kind = {"ema": "averaged", "raw": "raw"}
    raise ConfigError(
        f"{checkpoint.path}: has no {kind[which]} weights, only {kind[named_kind]} ones. Leave out --weights."
    )


def _with_names(
    checkpoint: FairchemCheckpoint, named: dict[str, Tensor], average: list[Tensor], roles: Mapping[str, Role]
) -> dict[str, Tensor]:
    """Assign names to a list of weights, in the order of the trained parameters.

    A shared weight has the position of its first name.
    """
    groups: dict[int, list[str]] = {}
    for name, weight in named.items():
        groups.setdefault(id(weight), []).append(name)
    trained = [names for names in groups.values() if any(roles[name] == "trained" for name in names)]
    if len(average) != len(trained):
        raise DataError(
            f"{checkpoint.path}: ema.shadow_params has {len(average)} tensors for {len(trained)} parameters, and "
            "cannot be assigned to them. Use --weights raw."
        )
    for names, weight in zip(trained, average):
        if weight.shape != named[names[0]].shape:
            raise DataError(
                f"{checkpoint.path}: the averaged {names[0]} has shape {tuple(weight.shape)}, the raw one "
                f"{tuple(named[names[0]].shape)}: the list is in another order. Use --weights raw."
            )
    return {name: weight for names, weight in zip(trained, average) for name in names}
