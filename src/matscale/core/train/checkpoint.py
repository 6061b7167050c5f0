"""Checkpoints: data, never code, and either whole or not there.

    checkpoints/step_<n>/model.safetensors      the Potential's state: weights, references, scales
                        ema.safetensors         the same with averaged weights, if there is an average
                        optimizer.safetensors   AdamW's moments, `<parameter>.<moment>`
                        state.json              everything else that a resumed run continues from
                        manifest.json           sizes and SHA-256 of the others; written last
    checkpoints/last, best                      a step each

A folder is made under a temporary name, every file flushed to the disk, then renamed. What is damaged later (cut off,
flipped, missing) is found by its digest, and the checkpoint before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matscale.core.errors import MatscaleError
from matscale.core.files import DiskError, make_folder, remove, replacing_folder, sweep_up, write_blocks, write_text

FORMAT_VERSION = 1
_FOLDER = re.compile(r"step_(\d+)")
Tensors = Mapping[str, Tensor]


class DamagedCheckpoint(MatscaleError):
    """A checkpoint on disk is not what was written."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds, in memory."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def folder_of(root: Path, step: int) -> Path:
    return root / f"step_{step}"


def steps(root: Path) -> list[int]:
    """Steps with a checkpoint folder under `root`, ascending."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _FOLDER.fullmatch(name)))


def pointer(root: Path, name: str) -> int | None:
    """The step that `last` or `best` names."""
    try:
        return int((root / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def save(root: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint and have `last` name it. Raises MatscaleError (disk full, not writable); the others stay."""
    final = folder_of(root, checkpoint.step)
    try:
        make_folder(root)
        with replacing_folder(final) as temporary:
            _write(temporary, checkpoint)
        write_text(root / "last", f"{checkpoint.step}\n")
    except DiskError as error:
        raise error.told("The checkpoint before it is whole: go on from there with --resume.") from error
    return final


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    groups = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
    for name, tensors in groups.items():
        if tensors is not None:
            write_tensors(folder / f"{name}.safetensors", tensors)
    write_text(folder / "state.json", json.dumps({"step": checkpoint.step, **checkpoint.state}))
    files = {p.name: {"size": p.stat().st_size, "sha256": _digest(p)} for p in sorted(folder.iterdir())}
    manifest = {"format_version": FORMAT_VERSION, "step": checkpoint.step, "files": files}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))


_NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""dtype -> its name in a file, in the order in which safetensors writes them: wide ones first."""


def write_tensors(path: Path, tensors: Tensors) -> None:
    """Write a safetensors file, byte for byte what the library writes.

    The library's own writer knows neither the umask nor the errors of disks, and refuses tensors that share memory
    (tied weights), which would have to be copied first.
    """
    order = list(_NAMES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header, start = {}, 0
    for name in names:
        tensor, end = tensors[name], start + tensors[name].nbytes
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    contents = (tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data for name in names)
    write_blocks(path, chain([len(text).to_bytes(8, "little"), text], contents))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> dict[str, Any]:
    """The manifest, if every file is as it was written; else raises DamagedCheckpoint that says which is not."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        version, files = manifest["format_version"], dict(manifest["files"])
        expected = {name: (entry["size"], entry["sha256"]) for name, entry in files.items()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedCheckpoint(f"{folder}: manifest.json cannot be read ({error}).") from None
    if version > FORMAT_VERSION:
        raise MatscaleError(f"{folder}: written by a newer matscale (format {version}). Update matscale.")
    if not {"model.safetensors", "optimizer.safetensors", "state.json"} <= set(expected):
        raise DamagedCheckpoint(f"{folder}: manifest.json does not list the files of a checkpoint.")
    for name, (size, digest) in expected.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise DamagedCheckpoint(f"{folder}: {name} is missing.")
        if path.stat().st_size != size:
            raise DamagedCheckpoint(f"{path}: has {path.stat().st_size} bytes, {size} were written.")
        if _digest(path) != digest:
            raise DamagedCheckpoint(f"{path}: its content is not what was written (SHA-256 differs).")
    return manifest


def load(folder: Path) -> Checkpoint:
    """Read one checkpoint. Raises DamagedCheckpoint if it is not whole."""
    files = verify(folder)["files"]
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    ema = _tensors(folder / "ema.safetensors") if "ema.safetensors" in files else None
    model, optimizer = _tensors(folder / "model.safetensors"), _tensors(folder / "optimizer.safetensors")
    return Checkpoint(int(state.pop("step")), model, ema, optimizer, state)


def load_weights(folder: Path, averaged: bool = True) -> dict[str, Tensor]:
    """State of the Potential, after verification: averaged weights where there are, unless `averaged` is False."""
    files = verify(folder)["files"]
    name = "ema.safetensors" if averaged and "ema.safetensors" in files else "model.safetensors"
    return _tensors(folder / name)


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, Tensor] = load_file(path)
    return tensors


def load_latest(root: Path) -> Checkpoint | None:
    """The newest sound checkpoint, with a warning for each damaged one that was passed over; None if there is none."""
    for step in reversed(steps(root)):
        try:
            return load(folder_of(root, step))
        except DamagedCheckpoint as error:
            warnings.warn(f"{error} The checkpoint before it is used.", stacklevel=2)
    return None


def prune(root: Path, keep: int, for_good: Sequence[int] = ()) -> None:
    """Delete all but the `keep` latest checkpoints, the best and those of the steps `for_good`; and what killed
    processes left half-written."""
    spared = {*steps(root)[-keep:], *for_good, pointer(root, "best"), pointer(root, "last")}
    for step in steps(root):
        if step not in spared:
            remove(folder_of(root, step))
    sweep_up(root, alone=True)
