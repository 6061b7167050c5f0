r"""Checkpoints of fairchem v1: read, checked, and put into a Potential.

What the file holds acts in three places. Predictions of fairchem are

    E = rmsd_E · model + Σ_atoms reference(Z),    F = rmsd_F · model,    σ_part = rmsd_part · model + mean_part

so `references` and `scales` of the Potential take those of energy and forces, and the stress head the two of its parts.

A run writes two kinds of file. `checkpoint.pt` has the raw weights, and the moving average (EMA) as a list without
names, in the order of the parameters among the raw ones. `best_checkpoint.pt` has the averaged weights, with names.
(fairchem's own calculator takes what has names: raw weights from the one, averaged ones from the other.)
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from matscale.core.architecture import DatasetInfo
from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.imported import save
from matscale.core.potential import Potential, Scales
from matscale.core.train.record import Run
from matscale.plugins.eqv2 import unpickle
from matscale.plugins.eqv2.config import EqV2Config
from matscale.plugins.eqv2.heads import Rank2StressHead
from matscale.plugins.eqv2.model import EqV2, graph
from matscale.plugins.eqv2.names import config_from_fairchem, derived, fairchem_name, load_fairchem
from matscale.plugins.eqv2.prehydra import as_hydra, without_prefix

Choice = Literal["auto", "ema", "raw"]
TIMEOUT = 1800
"""Seconds for reading a file."""

_MODEL = {"name", "backbone", "heads", "otf_graph", "pass_through_head_outputs", "freeze_backbone", "finetune_config"}
_HEADS: dict[str, tuple[set[str], dict[str, Any]]] = {
    "energy": ({"equiformer_v2_energy_head", "equiformerV2_scalar_head"}, {"output_name": "energy", "reduce": "sum"}),
    "forces": ({"equiformer_v2_force_head", "equiformerV2_vector_head"}, {"output_name": "forces"}),
    "stress": (
        {"rank2_symmetric_head"},
        {
            "output_name": "stress",
            "decompose": True,
            "use_source_target_embedding": True,
            "edge_level_mlp": False,
            "num_mlp_layers": 2,
            "extensive": False,
        },
    ),
}
"""Head -> the names of its module, and the value of each of its options that is supported."""
_REQUIRED = {"stress": ("decompose", "use_source_target_embedding")}
"""Options whose default in fairchem is another one."""


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file; every tensor is one of numbers, nothing has been interpreted."""

    path: Path
    values: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.section("config")

    def section(self, key: str, *inner: str) -> dict[str, Any]:
        """The dict at `key`, empty where there is none. Raises DataError if it is something else."""
        value: Any = self.values
        for part in (key, *inner):
            value = value.get(part)
            value = {} if value is None else value
            if not isinstance(value, dict):
                raise DataError(f"{self.path}: {part!r} is a {type(value).__name__} where a dict is expected.")
        return value

    @property
    def weights(self) -> dict[str, Tensor]:
        """The weights that have names, without the `module.` (0 to 2 times) of fairchem's parallel training."""
        named = self.section("state_dict")
        if not named:
            raise DataError(f"{self.path}: has no weights (no state_dict in it). Is it a checkpoint of fairchem v1?")
        weights = without_prefix(named)
        for name, value in weights.items():
            if not isinstance(value, Tensor):
                raise DataError(f"{self.path}: {name} in state_dict is a {type(value).__name__}, not a tensor.")
        return weights

    @property
    def average(self) -> list[Tensor] | None:
        """The list of averaged weights, if the file has one."""
        average = self.section("ema").get("shadow_params")
        if average is not None and not (isinstance(average, list) and all(isinstance(w, Tensor) for w in average)):
            raise DataError(f"{self.path}: ema.shadow_params is not a list of tensors.")
        return average

    @property
    def named_are_averaged(self) -> bool:
        """Of a file without a list: whether what has names is the average (fairchem's `best_checkpoint.pt`)."""
        return "ema" not in self.values and bool(self.section("config", "optim").get("ema_decay"))


@dataclass(frozen=True)
class Imported:
    """A model of fairchem as one of ours."""

    config: EqV2Config
    info: DatasetInfo
    potential: Potential
    weights: Literal["ema", "raw"]


def read(path: str | Path) -> Checkpoint:
    """Unpickle a file in a process of its own (`matscale.plugins.eqv2.unpickle`).

    Raises DataError, which names what the file may not contain; ConfigError if there is no file.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. Give the path of a checkpoint of fairchem v1 (.pt).")
    with tempfile.TemporaryDirectory(prefix="matscale-import-") as folder:
        _unpickle(path.resolve(), Path(folder))
        plain = json.loads((Path(folder) / "content.json").read_text(encoding="utf-8"))
        tensors = load_file(Path(folder) / "tensors.safetensors")
        return Checkpoint(path, as_hydra(path, {key: _filled(value, tensors) for key, value in plain.items()}))


def _unpickle(path: Path, folder: Path) -> None:
    # -I: neither the user's site-packages nor PYTHONPATH nor the working directory have a say in that process.
    command = [sys.executable, "-I", unpickle.__file__, str(path), str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False, env=os.environ)
    except subprocess.TimeoutExpired:
        raise DataError(f"{path}: reading it took more than {TIMEOUT} s and was given up.") from None
    said = done.stderr.strip().splitlines()[-1:] or ["it said nothing"]
    if done.returncode == unpickle.REFUSED:
        raise DataError(f"{path}: is refused: {said[0]}. Nothing of it was imported or run.")
    if done.returncode:
        raise MatscaleError(
            f"{path}: the process that reads it ended with code {done.returncode} ({said[0]}). Is there enough memory, "
            f"and room in {tempfile.gettempdir()}?"
        )


def _filled(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put tensors back where `unpickle` left their names."""
    if isinstance(value, dict):
        if value.keys() == {"tensor"} and value["tensor"] in tensors:
            return tensors[value["tensor"]]
        return {key: _filled(inner, tensors) for key, inner in value.items()}
    return [_filled(inner, tensors) for inner in value] if isinstance(value, list) else value


def translate(checkpoint: Checkpoint, choice: Choice = "auto") -> Imported:
    """The Potential that predicts what fairchem predicts. `auto` takes averaged weights where there are.

    Raises ConfigError for another network and for weights that are not in the file, DataError for unknown content.
    """
    config = configuration(checkpoint)
    model = EqV2(config)
    weights, which = _chosen(checkpoint, model, choice)
    try:
        load_fairchem(model, weights)
    except DataError as error:
        raise DataError(f"{checkpoint.path}: {error}") from None
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise DataError(f"{checkpoint.path}: {fairchem_name(name)} has NaN or infinite values.")
    scales, parts = normalisers(checkpoint)
    if config.stress_head == "rank2":
        cast(Rank2StressHead, model.stress).normalisers.copy_(parts)
    references, elements = _references(checkpoint, config)
    info = DatasetInfo(elements, config.mean_atoms, config.mean_degree)
    potential = Potential(
        model, derive=False, elements=elements, references=references, scales=scales, graph=graph(config)
    )
    return Imported(config, info, potential, which)


def configuration(checkpoint: Checkpoint) -> EqV2Config:
    """Ours, of the file's. Raises ConfigError that names what is another network."""
    path, model = checkpoint.path, checkpoint.config.get("model")
    name = model.get("name") if isinstance(model, dict) else model
    if not isinstance(model, dict) or name != "hydra":
        raise ConfigError(
            f"{path}: its model is {name!r}. Only EquiformerV2 is imported: a hydra model with a backbone and heads, "
            "or an equiformer_v2 from before."
        )
    unknown = sorted(set(model) - _MODEL)
    if unknown:
        raise ConfigError(f"{path}: unknown option {unknown[0]!r} of a hydra model.")
    backbone, heads = (checkpoint.section("config", "model", part) for part in ("backbone", "heads"))
    if backbone.get("model") != "equiformer_v2_backbone":
        raise ConfigError(
            f"{path}: its backbone is {backbone.get('model')!r}: only 'equiformer_v2_backbone' is imported."
        )
    for head, (modules, options) in _HEADS.items():
        if head in heads or head != "stress":
            chosen = dict(checkpoint.section("config", "model", "heads", head))
            _check_head(path, head, chosen, modules, options, backbone)
    if extra := sorted(set(heads) - set(_HEADS)):
        raise ConfigError(f"{path}: head {extra[0]!r} has no counterpart here. Known: energy, forces, stress.")
    try:
        return config_from_fairchem(backbone, stress_head="rank2" if "stress" in heads else "none")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _check_head(
    path: Path, name: str, head: dict[str, Any], modules: set[str], options: dict[str, Any], backbone: dict[str, Any]
) -> None:
    module = head.pop("module", None)
    if not isinstance(module, str) or module not in modules:
        raise ConfigError(
            f"{path}: its head for {name} is {module!r}: only {' or '.join(sorted(modules))} is imported."
        )
    if name == "stress":
        options = {**options, "default_norm_type": backbone.get("norm_type", "rms_norm_sh")}
        head = {"default_norm_type": "layer_norm_sh", **head}
        head.pop("avg_num_nodes", None)  # has an effect on extensive heads alone
    for key in _REQUIRED.get(name, ()):
        head.setdefault(key, False)
    for key, value in head.items():
        if key not in options:
            raise ConfigError(f"{path}: unknown option {key} = {value!r} of the head for {name}.")
        if isinstance(value, Tensor) or value != options[key]:
            raise ConfigError(f"{path}: {key} = {value!r} of the head for {name}: only {options[key]!r} is imported.")


def _chosen(checkpoint: Checkpoint, model: EqV2, choice: Choice) -> tuple[dict[str, Tensor], Literal["ema", "raw"]]:
    """The weights asked for, by published name, and which they are."""
    named = checkpoint.weights
    parameters = {fairchem_name(name) for name, _ in model.named_parameters()}
    unknown = [name for name in named if name not in parameters and not derived(name)]
    if unknown:
        raise DataError(
            f"{checkpoint.path}: {unknown[0]} ({len(unknown)} such) is no weight of this model. Has it another head?"
        )
    average = checkpoint.average
    named_kind = "ema" if checkpoint.named_are_averaged else "raw"
    held = {named_kind} if average is None else {named_kind, "ema"}
    which: Literal["ema", "raw"] = "raw" if choice == "raw" or (choice == "auto" and held == {"raw"}) else "ema"
    if which == named_kind:
        return named, which
    if which == "ema" and average is not None:
        return _with_names(checkpoint, average, [name for name in named if name in parameters]), which
    kind = {"ema": "averaged", "raw": "raw"}
    raise ConfigError(
        f"{checkpoint.path}: has no {kind[which]} weights, only {kind[named_kind]} ones. Leave out --weights."
    )


def _with_names(checkpoint: Checkpoint, average: list[Tensor], names: list[str]) -> dict[str, Tensor]:
    """The list has no names: it has the order of the parameters."""
    if len(average) != len(names):
        raise DataError(
            f"{checkpoint.path}: ema.shadow_params has {len(average)} tensors for {len(names)} parameters, so which is "
            "which cannot be told. Take --weights raw."
        )
    for name, weight in zip(names, average):
        if weight.shape != checkpoint.weights[name].shape:
            raise DataError(
                f"{checkpoint.path}: the averaged {name} has shape {tuple(weight.shape)}, the raw one "
                f"{tuple(checkpoint.weights[name].shape)}: the list is in another order. Take --weights raw."
            )
    return dict(zip(names, average))


_TARGETS = {"target": "energy", "grad_target": "forces"}
"""Names of normalizers in old files."""


def normalisers(checkpoint: Checkpoint) -> tuple[Scales, Tensor]:
    """Scales of energy [eV], forces [eV/Å] and stress [eV/Å³]; scale and shift of the two parts of the stress [2, 2].

    The scale of the anisotropic part is that of the stress, and those of its parts are relative to it.
    """
    found = {_TARGETS.get(name, name): value for name, value in checkpoint.section("normalizers").items()}
    known = ("energy", "forces", "stress_isotropic", "stress_anisotropic")
    if unknown := sorted(set(found) - set(known)):
        raise DataError(f"{checkpoint.path}: unknown normalizer {unknown[0]!r}. Known: {', '.join(known)}.")
    pairs = {name: _scale_and_shift(checkpoint.path, name, found.get(name, {})) for name in known}
    for name in ("energy", "forces"):
        if pairs[name][1]:
            raise DataError(
                f"{checkpoint.path}: the normalizer of {name} adds {pairs[name][1]:g}, once for each "
                f"{'structure' if name == 'energy' else 'component'}. Such a model is not extensive or not equivariant "
                "and is not imported."
            )
    stress = pairs["stress_anisotropic"][0]
    parts = torch.tensor([pairs["stress_isotropic"], pairs["stress_anisotropic"]], dtype=torch.float64) / stress
    return Scales(energy=pairs["energy"][0], forces=pairs["forces"][0], stress=stress), parts


def _scale_and_shift(path: Path, name: str, values: dict[str, Any]) -> tuple[float, float]:
    known = {"rmsd", "std", "mean"}
    if not isinstance(values, dict) or set(values) - known:
        raise DataError(f"{path}: the normalizer of {name} has other entries than {', '.join(sorted(known))}.")
    scale, shift = _number(values.get("rmsd", values.get("std", 1.0))), _number(values.get("mean", 0.0))
    if not (0 < scale < math.inf and math.isfinite(shift)):
        raise DataError(f"{path}: the normalizer of {name} is {values!r}: a positive scale and a shift are expected.")
    return scale, shift


def _number(value: Any) -> float:
    """Of a tensor of one element or a plain number; NaN of anything else."""
    if isinstance(value, Tensor) and value.numel() == 1:
        return float(value)
    return float(value) if isinstance(value, float | int) else math.nan


def _references(checkpoint: Checkpoint, config: EqV2Config) -> tuple[Tensor, tuple[int, ...]]:
    """[119] eV, and the elements of the training data: those with a reference; without references all of the table."""
    found = checkpoint.section("elementrefs")
    if unknown := sorted(set(found) - {"energy"}):
        raise DataError(f"{checkpoint.path}: element references of {unknown[0]!r}: only those of the energy are known.")
    table = range(1, config.max_atomic_number + 1)
    if not found:
        return torch.zeros(119), tuple(table)
    values = checkpoint.section("elementrefs", "energy").get("element_references")
    if not isinstance(values, Tensor) or values.dim() != 1 or len(values) > 119 or not values.isfinite().all():
        raise DataError(
            f"{checkpoint.path}: elementrefs.energy is not a row of at most 119 finite energies by element."
        )
    references = torch.zeros(119, dtype=torch.float64)
    references[: len(values)] = values.double()
    return references, tuple(z for z in table if references[z] != 0)


def import_run(path: str | Path, target: str | Path, choice: Choice = "auto") -> tuple[Run, Imported]:
    """Import the checkpoint at `path` as the run `target`. Raises what `read`, `translate` and `Run.create` raise."""
    Run.check_free(Path(target), resumable=False)
    found = read(path)
    imported = translate(found, choice)
    step = found.values.get("step")
    cmd = found.section("config", "cmd")
    source = {
        "format": "fairchem v1",
        "file": found.path.name,
        "sha256": _sha256(found.path),
        "weights": imported.weights,
        **{key: str(cmd[key]) for key in ("identifier", "version", "commit", "timestamp_id") if cmd.get(key)},
    }
    run = save(
        target,
        "eqv2",
        imported.config,
        imported.info,
        imported.potential,
        source,
        step if isinstance(step, int) and step > 0 else 0,
    )
    return run, imported


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
