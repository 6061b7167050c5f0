"""Manifest of a packed dataset (`manifest.json`): a small file that describes it and lists its shards."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from matscale.core.errors import DataError
from matscale.core.files import write_text

FORMAT_VERSION = 1
FILE = "manifest.json"
_MAX_BYTES = 256 << 20
_AGAIN = "Copy the dataset again, or pack it again."


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class ShardRecord(_Part):
    """Entry of the manifest for a shard."""

    file: str
    """Name of the file, which lies in the folder of the manifest."""
    n_structures: Count
    n_atoms: Count
    sha256: str


class SourceRecord(_Part):
    """Entry of the manifest for a file that was packed."""

    path: str
    format: str = ""
    keys: dict[str, str] = {}
    """Key under which each label was found, such as {"energy": "REF_energy"}."""
    structures: int = 0
    rejected: int = 0
    """Number of structures that could not be used."""
    filtered: int = 0
    """Number of structures that a filter left out."""
    notes: dict[str, int] = {}
    """Decisions made while reading (unit converted, value ignored), each with the number of structures."""


class Manifest(_Part):
    """Contents of `manifest.json`."""

    format_version: int = FORMAT_VERSION
    n_structures: Count
    n_atoms: Count
    elements: dict[str, int]
    """Number of atoms of each element, by symbol."""
    labels: dict[str, int]
    """For each label (energy, forces, stress), the number of structures that have it."""
    statistics: dict[str, Any] = {}
    """Moments and histograms by source (or "all") and property: see `matscale.core.data.store.statistics`."""
    sources: list[SourceRecord] = []
    labels_by: str | None = None
    """Labeler that made the labels, such as "surrogate: chgnet-0.3.0"; None if they come from the sources."""
    filters: list[str] = []
    precision: str = "float64"
    shards: list[ShardRecord] = []
    rejected: int = 0
    """Number of structures that could not be used; `rejected.jsonl` lists them with reasons."""
    filtered: int = 0
    """Number of structures that a filter left out; `rejected.jsonl` lists them, too."""
    isolated_atoms: dict[str, float] = {}
    """Energies [eV] of isolated atoms, by symbol; frames with isolated atoms are not packed."""
    passed_over: list[str] = []
    """Files in the given folders that no reader knows. Hidden files, notes, licences, ... are not listed."""
    fingerprint: str = ""
    """Hash of the files and options that were given to `matscale data pack`.

    If it is unchanged, packing again does nothing.
    """
    hash: str = ""
    """Identity of the dataset: a hash that depends only on the contents and the order of its shards."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest in `folder`.

        Raises DataError if the manifest is missing or damaged, or has another format version.
        """
        path = folder / FILE
        if not path.exists():
            raise DataError(
                f"{folder}: no packed dataset (it has no {FILE}). `matscale data pack SRC -o {folder}` makes one."
            )
        try:
            if not path.is_file() or path.stat().st_size > _MAX_BYTES:
                raise ValueError(f"not a file of at most {_MAX_BYTES >> 20} MiB")
            values = json.loads(path.read_text(encoding="utf-8"))
            version = int(values["format_version"])
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise DataError(f"{path}: is damaged ({error!r}). {_AGAIN}") from None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: has format version {version}, but this matscale reads version {FORMAT_VERSION}. "
                "Pack the dataset again with this version, or install the one that wrote it."
            )
        checksum = values.pop("checksum", None)  # datasets of older versions have no checksum
        if checksum is None and "isolated_atoms" in values:
            raise DataError(f"{path}: is damaged (its checksum is missing). {_AGAIN}")
        if checksum is not None and checksum != _checksum(values):
            raise DataError(f"{path}: has changed since it was written (its checksum differs). {_AGAIN}")
        try:
            manifest = cls.model_validate(values)
            fault = manifest._fault()
        except ValidationError as error:
            fault = str(error)
        if fault:
            raise DataError(f"{path}: is damaged ({fault}). {_AGAIN}")
        return manifest

    def _fault(self) -> str:
        """Describe the first contradiction between entries of the manifest; empty if there is none."""
        names = [shard.file for shard in self.shards]
        for name in names:
            if not name or not name.isprintable() or name != PurePosixPath(name).name or "\\" in name or ":" in name:
                return f"shard {name!r} is not the name of a file in its folder"
        if not names or len(set(names)) < len(names):
            return "it names no shard, or one of them twice"
        for count in ("n_structures", "n_atoms"):
            total = sum(getattr(shard, count) for shard in self.shards)
            if total != getattr(self, count):
                return f"{count} = {getattr(self, count)}, and its shards hold {total}"
        if self.hash != dataset_hash(self.shards):
            return "its hash is not that of its shards"
        return ""

    def write(self, folder: Path) -> None:
        """Write the manifest, in one step. With it, the folder becomes a dataset.

        All other files of the dataset must be written before.
        """
        values = self.model_dump(mode="json")
        values["checksum"] = _checksum(values)
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        write_text(folder / FILE, f"{{\n{lines}\n}}\n")


def _checksum(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def dataset_hash(shards: list[ShardRecord]) -> str:
    """Hash that identifies the dataset with these shards."""
    digest = hashlib.sha256(f"matscale packed {FORMAT_VERSION}\n".encode())
    for shard in shards:
        digest.update(f"{shard.sha256} {shard.n_structures} {shard.n_atoms}\n".encode())
    return digest.hexdigest()
