"""`Importer`: the part of a fairchem import that depends on the architecture, returned by the hook
`register_importers`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor, nn

from matscale.core.errors import ConfigError, DataError
from matscale.core.fairchem.checkpoint import FairchemCheckpoint
from matscale.core.model.architecture import ArchitectureConfig, DatasetInfo

if TYPE_CHECKING:
    from matscale.core.model.potential import Potential

Role = Literal["trained", "fixed", "derived"]
"""Role of a tensor in a file. `trained`: a weight, which may have an average. `fixed`: imported, but without an
average, such as a scale factor. `derived`: follows from the options or other tensors, such as a table; not imported."""


@dataclass(frozen=True)
class Importer:
    """Importer of one of fairchem's models, which converts checkpoints of this model to a matscale model."""

    name: str
    """Name of the architecture of the run."""
    models: tuple[str, ...]
    """Names of the model in fairchem's configurations, as a plain model and as the backbone of a hydra model."""
    config: Callable[[FairchemCheckpoint], ArchitectureConfig]
    """Converts the options of a checkpoint to a configuration of matscale.

    Raises ConfigError that names the first option without a counterpart.
    """
    roles: Callable[[Any, Iterable[str]], Mapping[str, Role]]
    """Returns the role of each tensor of a file, given the model and the names of the tensors.

    Raises an error for a name without a role.
    """
    load: Callable[[Any, Mapping[str, Tensor]], None]
    """Copies published weights into a model. Raises DataError that names missing weights or wrong shapes."""
    normal: Callable[[FairchemCheckpoint], FairchemCheckpoint] = lambda checkpoint: checkpoint
    """Converts a checkpoint of an older form to the form that the other functions expect."""
    max_atomic_number: Callable[[Any], int] = lambda config: config.max_atomic_number
    """Returns the largest atomic number for which a model has weights, given its configuration."""
    info: Callable[[Any, tuple[int, ...]], DatasetInfo] = lambda config, elements: DatasetInfo(elements)
    """Returns the dataset facts for the run record, given the configuration and the elements."""
    stress_parts: Callable[[Any, Tensor], None] | None = None
    """Sets scales and shifts of the stress head, given the model and a tensor [part, (scale, shift)].

    The parts are isotropic and anisotropic. None if there is no such head.
    """
    notes: Callable[[FairchemCheckpoint], list[str]] = lambda checkpoint: []
    """Returns notes on a checkpoint for the user after a successful import, a sentence each."""
    export: Callable[[Potential], Mapping[str, Any]] | None = None
    """Converts a Potential back to the content of a file of fairchem v1, for `matscale export fairchem`.

    Raises ConfigError that names an option without a counterpart. None if there is no export.
    """


def rewritten(name: str, rules: Iterable[tuple[str, str | Callable[[re.Match[str]], str]]]) -> str:
    r"""Apply rules (pattern, replacement) to the name of a parameter, one after the other.

    >>> rewritten("blocks.0.norm.weight", [(r"^blocks", "layers"), (r"\.norm\.", ".norm_1.")])
    'layers.0.norm_1.weight'
    """
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def copy_named(model: nn.Module, weights: Mapping[str, Tensor], published: Callable[[str], str]) -> None:
    """Copy published weights into a model; `published` gives the published name of each parameter.

    Raises DataError that names missing weights or wrong shapes.
    """
    own = {published(name): (name, p) for name, p in model.named_parameters()}
    missing = sorted(set(own) - set(weights))
    if missing:
        raise DataError(
            f"the weights have no {missing[0]!r} ({len(missing)} of {len(own)} are missing): they may belong to a "
            "model with other options."
        )
    for name, (ours, parameter) in own.items():
        if weights[name].shape != parameter.shape:
            raise DataError(
                f"{name} has shape {tuple(weights[name].shape)}, {ours} needs {tuple(parameter.shape)}: "
                "the weights are those of a model with other options."
            )
        parameter.data.copy_(weights[name])


def renamed(
    what: str,
    given: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    only: Mapping[str, tuple[Any, ...]],
    without_effect: Collection[str],
) -> dict[str, Any]:
    """Rename options of `given` to those of matscale; options whose value is None are left out.

    `names` maps fairchem's names to matscale's. `only` holds the values allowed for options without a matscale name.
    Raises ConfigError that names `what`, the option and its value, if the value is not allowed or the option is in none
    of `names`, `only` and `without_effect`.

    >>> renamed("net", {"channels": 8, "otf": True}, {"channels": "width"}, only={}, without_effect={"otf"})
    {'width': 8}
    """
    found: dict[str, Any] = {}
    for key, value in given.items():
        if key in names:
            found |= {names[key]: value} if value is not None else {}
        elif key in only:
            if not any(value == known and isinstance(value, bool) == isinstance(known, bool) for known in only[key]):
                raise ConfigError(
                    f"{key} = {value!r}: {what} supports only {only[key][-1]!r}. Such a model cannot be imported."
                )
        elif key not in without_effect:
            raise ConfigError(f"unknown option {key} = {value!r} of {what}.")
    return found
