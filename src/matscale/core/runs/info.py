"""Record of a run (run.json). It is written with a digest, which is checked when the record is read.

A record without a digest belongs to a run that has not started, or was made by an older matscale; only its schema is
checked. If other files show that the record had a digest, it counts as damaged. This module does not import torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matscale.core.errors import MatscaleError
from matscale.core.runs.files import FORMAT_VERSION, INFO, METRICS, MOVABLE, RESUMABLE, Rows
from matscale.core.sealing import DIGEST, DamagedRecord, digest_of, read_sealed

OF = "of"
"""Key in a file of baselines: identifies the dataset, and its parts, for which they were measured."""

Count = Annotated[int, Field(ge=0, lt=2**63)]
Amount = Annotated[float, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Architecture(_Part):
    name: str | None = None
    distribution: str | None = None
    version: str | None = None


class _Dataset(_Part):
    hash: str | None = None
    train: Count | None = None
    path: str | None = None


class _DatasetInfo(_Part):
    elements: list[Annotated[int, Field(ge=1, le=118)]]
    mean_atoms: Amount
    mean_degree: Amount


class _Validation(_Part):
    step: Count
    loss: float | None = None
    objective: float | None = None
    energy_mae: float | None = None
    forces_mae: float | None = None
    stress_mae: float | None = None


class _Start(_Part):
    run: str | None = None
    step: Count | None = None
    flops: Amount | None = None


class _Written(_Part):
    rows: Count
    sha256: str


class _Info(_Part):
    """Schema of run.json: its known keys and their types. All keys are optional."""

    format_version: Count = 0
    name: str | None = None
    status: str | None = None
    error: str | None = None
    config_sha256: str | None = None
    architecture: _Architecture | None = None
    parameters: dict[str, Count] | None = None
    dataset: _Dataset | None = None
    dataset_info: _DatasetInfo | None = None
    labels: dict[str, str | int | float] | None = None
    seed: Count | None = None
    device: str | None = None
    precision: str | None = None
    world_size: Annotated[int, Field(ge=1)] = 1
    steps: Count | None = None
    epochs: Amount | None = None
    structures: Count | None = None
    atoms: Count | None = None
    edges: Count | None = None
    flops: Amount | None = None
    flops_shared: Amount | None = None
    validation_flops: Amount | None = None
    wall_s: Amount | None = None
    wall_s_shared: Amount | None = None
    best: _Validation | None = None
    last: _Validation | None = None
    start: _Start | None = None
    rows: dict[str, _Written] | None = None
    altered: list[str] | None = None
    precision_ledger: list[dict[str, Any]] | None = None


def read_info(folder: Path) -> dict[str, Any]:
    """Read run.json of a run.

    Raises DamagedRecord that says what is wrong, or MatscaleError if a newer matscale wrote the file.
    """
    path = folder / INFO
    info = read_sealed(path)
    if DIGEST not in info and _was_sealed(folder, info):
        raise DamagedRecord(f"{path}: is damaged (its digest is missing).")
    version = info.get("format_version", 0)
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise MatscaleError(f"{folder}: written by a newer matscale (format {version}). Update matscale.")
    if fault := malformed(info):
        raise DamagedRecord(f"{path}: is damaged ({fault}).")
    return info


def _was_sealed(folder: Path, info: Mapping[str, Any]) -> bool:
    """Whether run.json once had a digest.

    It had one if the file, or its copy in a checkpoint, has a value that is only written together with a digest.
    """
    if "config_sha256" in info:
        return True
    for path in folder.glob("checkpoints/step_*/state.json"):
        try:
            if "config_sha256" in read_sealed(path)["run"]["info"]:
                return True
        except (DamagedRecord, KeyError, TypeError):
            continue  # no evidence either way
    return False


def malformed(info: Mapping[str, Any]) -> str:
    """Describe the first invalid value in run.json, with its key; empty if there is none."""
    try:
        _Info.model_validate(info)
    except ValidationError as error:
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return ""


def baselines_for(info: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Identity of the baselines of a run: two runs with the same identity have the same baselines.

    It consists of the dataset and the keys that determine the training and validation parts. `info` is run.json,
    `config` the resolved configuration. Baselines are always measured with OMat24's loss.
    """
    data = config.get("data") or {}
    keys = ("validation", "split_by", "validation_seed", "fraction", "count", "overfit")
    parts = {key: data.get(key) for key in keys} | {"seed": config.get("seed")}
    return {"dataset": (info.get("dataset") or {}).get("hash"), "parts": digest_of(_even(parts)), "loss": "OMat24"}


def read_own(path: Path, of: Mapping[str, Any]) -> dict[str, Any]:
    """Read a file that was written by `sealed({**values, OF: of})`, and return the values.

    Raises DamagedRecord if the file has other content.
    """
    values = read_sealed(path, required=True)
    if values.get(OF) != of:
        raise DamagedRecord(f"{path}: belongs to another run, which has another dataset or another split of it.")
    return {key: value for key, value in values.items() if key not in (DIGEST, OF)}


def fingerprint(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration, without the keys that may change when a run is resumed or moved."""
    return digest_of(_even(without(config, (*RESUMABLE, *MOVABLE))))


def without(values: Mapping[str, Any], keys: tuple[str, ...], prefix: str = "") -> dict[str, Any]:
    """Copy nested `values` without the given `keys`, such as "budget.steps".

    >>> without({"budget": {"steps": 9, "epochs": 1}, "seed": 0}, ("budget.steps",))
    {'budget': {'epochs': 1}, 'seed': 0}
    """
    return {
        key: without(value, keys, f"{prefix}{key}.") if isinstance(value, Mapping) else value
        for key, value in values.items()
        if prefix + key not in keys
    }


def _even(values: Any) -> Any:
    """Copy values, with floats that are whole numbers as int: files may hold 1 or 1.0 for the same number."""
    if isinstance(values, Mapping):
        return {key: _even(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [_even(value) for value in values]
    return int(values) if isinstance(values, float) and values.is_integer() else values


def changed_config(folder: Path, info: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """Message if config.toml differs from the configuration with which the run was trained; otherwise empty.

    `config` has the values of config.toml, `info` those of run.json.
    """
    known = info.get("config_sha256")
    if known is None or known == fingerprint(config):
        return ""
    return f"{folder}: config.toml has been changed since training, or run.json is another run's. Undo the change."


def changed_rows(folder: Path, info: Mapping[str, Any], name: str = METRICS) -> str:
    """Message if rows of a .jsonl file have changed since they were written; otherwise empty.

    run.json has the digest of the rows up to the last checkpoint. Later rows are ignored.
    """
    if name in (info.get("altered") or ()):
        return f"{folder / name}: its rows were changed before the run was resumed."
    known = (info.get("rows") or {}).get(name)
    if known is None or Rows(folder / name).written(known["rows"]) == known:
        return ""
    return f"{folder / name}: its first {known['rows']} rows are not those that were written. Restore it from a copy."
