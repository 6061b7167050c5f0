"""Convert inference checkpoints of fairchem 2 to the form of training checkpoints of fairchem 1.

Such a file has `model_config`, a hydra model as in fairchem 1; `model_state_dict` and `ema_state_dict`, by name; and
`tasks_config`. A task names one property of one data set and says how to make its normalizer and element references:

    {name: omat_energy, property: energy, normalizer: {_target_: ….Normalizer, mean: 0, rmsd: 1.2},
     element_references: {_target_: ….ElementReferences, element_references: {_target_: torch.DoubleTensor, _args_: …}}}

Only tasks that contain their numbers are read; a task that refers to another file is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matscale.core.errors import ConfigError, DataError

_WITHOUT_EFFECT = ("_target_", "supports_single_atoms", "model_id")
"""Options of a hydra model that do not affect numbers."""
_TENSORS = ("torch.tensor", "torch.Tensor", "torch.FloatTensor", "torch.DoubleTensor")


def as_training(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """Convert the content of an inference checkpoint to that of a training checkpoint; other content is unchanged."""
    if "model_config" not in values:
        return values
    config = values["model_config"]
    if not isinstance(config, dict):
        raise DataError(f"{path}: model_config is a {type(config).__name__} where a dict is expected.")
    target = str(config.get("_target_", ""))
    if target.rpartition(".")[2] != "HydraModel":
        raise ConfigError(f"{path}: its model is {target!r}: of fairchem 2 only a HydraModel is imported.")
    averaged, tasks = values.get("ema_state_dict"), values.get("tasks_config")
    averaged, tasks = {} if averaged is None else averaged, [] if tasks is None else tasks
    for name, value, kind in (("ema_state_dict", averaged, dict), ("tasks_config", tasks, list)):
        if not isinstance(value, kind):
            raise DataError(f"{path}: {name} is a {type(value).__name__} where a {kind.__name__} is expected.")
    averaged = {name: value for name, value in averaged.items() if name != "n_averaged"}
    model = {key: value for key, value in config.items() if key not in _WITHOUT_EFFECT}
    found: dict[str, Any] = {
        "state_dict": values.get("model_state_dict"),
        "config": {"model": {"name": "hydra", **model}},
        "normalizers": {},
        "format": "fairchem v2",
    }
    if averaged:
        found["averaged_state_dict"] = averaged
    for task in tasks:
        _add(path, task, found)
    return found


def _add(path: Path, task: Any, found: dict[str, Any]) -> None:
    """Add normalizer and references of a task to `found`, under the keys of fairchem 1."""
    quantity = task.get("property") if isinstance(task, dict) else None
    if not isinstance(quantity, str):
        raise DataError(f"{path}: tasks_config has a task without a property.")
    if quantity in found["normalizers"]:
        raise ConfigError(
            f"{path}: has more than one task for the {quantity}. A model of several data sets at once is not imported."
        )
    found["normalizers"][quantity] = _normalizer(path, quantity, task.get("normalizer"))
    references = task.get("element_references")
    if references is not None and references != {}:
        row = _row(_made_here(path, f"references of the {quantity}", references, "ElementReferences"))
        found.setdefault("elementrefs", {})[quantity] = {"element_references": row}


def _normalizer(path: Path, quantity: str, given: Any) -> dict[str, Any]:
    if given is None or given == {}:
        return {}
    made = _made_here(path, f"normalizer of the {quantity}", given, "Normalizer")
    return {key: torch.tensor(float(v)) if isinstance(v, int | float) else v for key, v in made.items()}


def _made_here(path: Path, what: str, given: Any, kind: str) -> dict[str, Any]:
    """Arguments with which the file makes an object of class `kind`.

    Raises ConfigError for anything else, such as a function, which could read files.
    """
    target = given.get("_target_") if isinstance(given, dict) else type(given).__name__
    if not isinstance(given, dict) or str(target).rpartition(".")[2] != kind:
        raise ConfigError(f"{path}: the {what} is made by {target!r}: only a {kind} with its numbers is imported.")
    return {key: value for key, value in given.items() if key != "_target_"}


def _row(given: dict[str, Any]) -> Any:
    """Convert a list of numbers (plain, or as arguments of a tensor) to a tensor; other values are unchanged."""
    row = given.get("element_references")
    if isinstance(row, dict) and row.get("_target_") in _TENSORS and isinstance(row.get("_args_"), list):
        row = row["_args_"][0] if len(row["_args_"]) == 1 else row
    if isinstance(row, list) and all(isinstance(value, int | float) for value in row):
        return torch.tensor(row, dtype=torch.float64)
    return row if isinstance(row, Tensor) else given
