"""`manifest.json`: what a packed dataset says of itself. It stays small, and opening a dataset reads nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from matscale.core.errors import DataError
from matscale.core.files import write_text

FORMAT_VERSION = 1
FILE = "manifest.json"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class ShardRecord(_Part):
    """One shard file."""

    file: str
    n_structures: int
    n_atoms: int
    sha256: str


class SourceRecord(_Part):
    """One file that was packed, and where its labels were found."""

    path: str
    format: str = ""
    keys: dict[str, str] = {}
    """Label -> key under which it was found, such as energy -> info['REF_energy']."""
    structures: int = 0
    rejected: int = 0
    """Structures that could not be used."""
    filtered: int = 0
    """Structures that a filter left out."""
    notes: dict[str, int] = {}
    """What was decided while it was read (units converted, values ignored) -> number of structures."""


class Manifest(_Part):
    """Contents of `manifest.json`."""

    format_version: int = FORMAT_VERSION
    n_structures: int
    n_atoms: int
    elements: dict[str, int]
    """Symbol -> number of atoms."""
    labels: dict[str, int]
    """energy, forces, stress -> number of structures that have it."""
    statistics: dict[str, Any] = {}
    """Source, or "all" -> property -> moments and histogram: see `matscale.core.data.statistics`."""
    sources: list[SourceRecord] = []
    labels_by: str | None = None
    """None for labels as the sources had them; else the labeler: "surrogate: chgnet-0.3.0"."""
    filters: list[str] = []
    precision: str = "float64"
    shards: list[ShardRecord] = []
    rejected: int = 0
    """Structures that could not be used; each with its reason in `rejected.jsonl`."""
    filtered: int = 0
    """Structures that a filter left out; listed there as well."""
    isolated_atoms: dict[str, float] = {}
    """Symbol -> energy [eV] of an isolated atom, where the sources mark such frames: they are not packed."""
    passed_over: list[str] = []
    """Files in the folders given that no reader knows; neither hidden ones nor notes, licences and the like."""
    fingerprint: str = ""
    """Of the files and options that `matscale data pack` was given: tells whether there is anything to do."""
    hash: str = ""
    """Identity of the dataset: depends on the contents of its shards and their order, on nothing else."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Raises DataError if `folder` holds no packed dataset, a damaged one, or one of another format."""
        path = folder / FILE
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = int(values["format_version"])
        except FileNotFoundError:
            raise DataError(
                f"{folder}: no packed dataset (it has no {FILE}). `matscale data pack SRC -o {folder}` makes one."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: is damaged ({error!r}). Pack the dataset again.") from None
        if version != FORMAT_VERSION:
            raise DataError(
                f"{path}: format version {version}; this matscale reads {FORMAT_VERSION}. "
                "Pack the dataset again with this version, or install the one that wrote it."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise DataError(f"{path}: is damaged ({error}). Pack the dataset again.") from None

    def write(self, folder: Path) -> None:
        """Appears whole or not at all; written last, it is what makes a folder a dataset."""
        values = self.model_dump(mode="json")
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items())
        write_text(folder / FILE, f"{{\n{lines}\n}}\n")


def dataset_hash(shards: list[ShardRecord]) -> str:
    """Identity of the dataset that consists of these shards."""
    digest = hashlib.sha256(f"matscale packed {FORMAT_VERSION}\n".encode())
    for shard in shards:
        digest.update(f"{shard.sha256} {shard.n_structures} {shard.n_atoms}\n".encode())
    return digest.hexdigest()
