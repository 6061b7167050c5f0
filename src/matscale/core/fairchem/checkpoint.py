"""Checkpoint of fairchem: its content, read safely and not yet interpreted.

A run of fairchem 1 writes two kinds of file. `checkpoint.pt` has the raw weights, and the moving average (EMA) as a
list without names, in the order of the trained parameters. `best_checkpoint.pt` has the averaged weights, with names.
(fairchem's own calculator uses weights with names: raw ones from the first, averaged ones from the second.)
fairchem 2 writes one inference checkpoint with raw and averaged weights, both with names; the module `inference`
converts it to the form of fairchem 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.fairchem import inference, unpickle
from matscale.core.files import scratch
from matscale.core.parsing import read_json

TIMEOUT = 1800
"""Longest time for reading a file [s]."""
PREFIXES = ("module.module.", "_orig_mod.module.", "module.", "_orig_mod.", "")
"""Prefixes that parallel training and torch.compile put before the names of weights."""
_HYDRA = {"name", "backbone", "heads", "otf_graph", "pass_through_head_outputs", "freeze_backbone", "finetune_config"}


@dataclass(frozen=True)
class Model:
    """Model section of fairchem's configuration: name, options and heads."""

    name: Any
    """Name of the model, or of the backbone of a hydra model; a string in every valid file."""
    options: dict[str, Any]
    heads: dict[str, Any] | None
    """Heads of a hydra model; None for a model in one piece."""


@dataclass(frozen=True)
class FairchemCheckpoint:
    """Content of a checkpoint file: tensors and plain values, not interpreted."""

    path: Path
    values: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.section("config")

    def section(self, key: str, *inner: str) -> dict[str, Any]:
        """Dict at `key`, or nested below it at the keys `inner`; empty if there is none.

        Raises DataError if the value is not a dict.
        """
        value = self.values
        for part in (key, *inner):
            found = value.get(part)
            if found is not None and not isinstance(found, dict):
                raise DataError(f"{self.path}: {part!r} is a {type(found).__name__} where a dict is expected.")
            value = {} if found is None else found
        return value

    @cached_property
    def model(self) -> Model:
        """Read the model section.

        Raises ConfigError for an unknown option of a hydra model, and for a tensor among the options.
        """
        found = self._model()
        for key, value in {**found.options, **(found.heads or {})}.items():
            if _holds_tensor(value):
                raise ConfigError(f"{self.path}: {key} is a tensor, or holds one, where an option is expected.")
        return found

    def _model(self) -> Model:
        model = self.config.get("model")
        if not isinstance(model, dict):
            return Model(model, self.section("config", "model_attributes"), None)
        if model.get("name") != "hydra":
            return Model(model.get("name"), {key: value for key, value in model.items() if key != "name"}, None)
        if unknown := sorted(set(model) - _HYDRA):
            raise ConfigError(f"{self.path}: unknown option {unknown[0]!r} of a hydra model.")
        backbone, heads = (self.section("config", "model", part) for part in ("backbone", "heads"))
        return Model(backbone.get("model"), {k: v for k, v in backbone.items() if k != "model"}, heads)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Weights by name, without the prefix that parallel training or torch.compile adds (`PREFIXES`)."""
        return self._named("state_dict")

    @property
    def averaged(self) -> dict[str, Tensor] | None:
        """Averaged weights by name, if the file has them beside the raw ones, as files of fairchem 2 do."""
        return self._named("averaged_state_dict") if self.values.get("averaged_state_dict") else None

    def _named(self, key: str) -> dict[str, Tensor]:
        named = self.section(key)
        if not named:
            raise DataError(f"{self.path}: has no weights (no state_dict in it). Is it a checkpoint of fairchem?")
        weights = without_prefix(named)
        for name, value in weights.items():
            if not isinstance(value, Tensor):
                raise DataError(f"{self.path}: {name} in {key} is a {type(value).__name__}, not a tensor.")
        return weights

    @property
    def average(self) -> list[Tensor] | None:
        """Averaged weights as a list without names, if the file has such a list."""
        average = self.section("ema").get("shadow_params")
        if average is not None and not (isinstance(average, list) and all(isinstance(w, Tensor) for w in average)):
            raise DataError(f"{self.path}: ema.shadow_params is not a list of tensors.")
        return average

    @property
    def named_are_averaged(self) -> bool:
        """Whether the weights with names are the averaged ones.

        This holds for a file without a list of averaged weights (fairchem's `best_checkpoint.pt`).
        """
        decay = self.section("config", "optim").get("ema_decay")
        return "ema" not in self.values and isinstance(decay, int | float) and decay != 0

    def changed(self, **values: Any) -> FairchemCheckpoint:
        """Copy of the checkpoint with other values under the keys in `values`."""
        return replace(self, values={**self.values, **values})


def _holds_tensor(value: Any) -> bool:
    """Whether a value is or contains a tensor; comparing a tensor with a setting would raise an error in torch."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, Tensor) or any(_holds_tensor(each) for each in inner)


def without_prefix(named: dict[str, Any]) -> dict[str, Any]:
    """Remove the prefix that all names share, the first of `PREFIXES`; returns the values by their new names."""
    prefix = next(p for p in PREFIXES if all(name.startswith(p) for name in named))
    return {name.removeprefix(prefix): value for name, value in named.items()}


def read(path: str | Path) -> FairchemCheckpoint:
    """Read a checkpoint file, unpickled in a separate process (`unpickle`).

    Raises DataError that names forbidden content, and ConfigError if there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. Give the path of a checkpoint of fairchem (.pt).")
    with scratch("import") as folder:
        _unpickle(path.resolve(), folder)
        plain = read_json(folder / "content.json")
        tensors = load_file(folder / "tensors.safetensors")
        values = {key: _filled(value, tensors) for key, value in plain.items()}
    return FairchemCheckpoint(path, inference.as_training(path, values))


def _unpickle(path: Path, folder: Path) -> None:
    # -I: the process ignores the user's site-packages, PYTHONPATH and the working directory.
    command = [sys.executable, "-I", unpickle.__file__, str(path), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=os.environ)
    except subprocess.TimeoutExpired:
        raise DataError(f"{path}: the process that reads it was stopped after {TIMEOUT} s.") from None
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if done.returncode == unpickle.REFUSED:
        raise DataError(f"{path}: is refused: {said[0]}. Nothing of it was imported or run.")
    if done.returncode:
        raise MatscaleError(
            f"{path}: the process that reads it ended with code {done.returncode} ({said[0]}). Is there enough memory, "
            f"and room in {tempfile.gettempdir()}?"
        )


def _filled(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors from `unpickle` back at their names; several names may share one tensor."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"} and value["tensor"] in tensors:
            return tensors[value["tensor"]]
        return {key: _filled(inner, tensors) for key, inner in value.items()}
    return [_filled(inner, tensors) for inner in value] if isinstance(value, list) else value
