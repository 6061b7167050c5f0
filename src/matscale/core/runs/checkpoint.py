"""Checkpoints: files of data without code, written completely or not at all.

    checkpoints/step_<n>/model.safetensors      the Potential's state: weights, references, scales
                        ema.safetensors         the same with averaged weights, if the run keeps an average
                        optimizer.safetensors   AdamW's moments, `<parameter>.<moment>`
                        state.json              everything else that a resumed run continues from, names and types of
                                                the tensors, and a copy of the run's configuration and run.json
                        manifest.json           sizes and SHA-256 of the other files; written last
    checkpoints/last, checkpoints/best          files with the number of the last and of the best step

A folder is written under a temporary name, every file is flushed to the disk, then the folder is renamed. Later damage
(a file cut off, changed or missing, tensors of another name or shape) is detected by the digests and by state.json.
Then the checkpoint before the damaged one is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matscale.core.errors import MatscaleError
from matscale.core.files import (
    DiskError,
    make_folder,
    open_file,
    remove,
    replacing_folder,
    sha256_of,
    sweep_up,
    write_blocks,
    write_text,
)
from matscale.core.sealing import DIGEST, digest_of, read_sealed

FORMAT_VERSION = 1
_FOLDER = re.compile(r"step_(\d+)")
GROUPS = ("model", "ema", "optimizer")
Tensors = Mapping[str, Tensor]


class DamagedCheckpoint(MatscaleError):
    """Error for a checkpoint whose files are not as they were written."""


class NonFiniteCheckpoint(DamagedCheckpoint):
    """Error for a checkpoint that holds a NaN or an infinity where there should be none."""

    exit_code = 4


@dataclass(frozen=True)
class Checkpoint:
    """Contents of a checkpoint in memory."""

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def on_host(checkpoint: Checkpoint) -> Checkpoint:
    """Copy a checkpoint to the memory of the host, where further steps of training do not change it."""

    def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}

    ema = None if checkpoint.ema is None else copied(checkpoint.ema)
    return replace(checkpoint, model=copied(checkpoint.model), ema=ema, optimizer=copied(checkpoint.optimizer))


def folder_of(root: Path, step: int) -> Path:
    return root / f"step_{step}"


def steps(root: Path) -> list[int]:
    """Steps of the checkpoints in the folder `root`, ascending."""
    names = [path.name for path in root.iterdir()] if root.is_dir() else []
    return sorted(int(match[1]) for name in names if (match := _FOLDER.fullmatch(name)))


def pointer(root: Path, name: str) -> int | None:
    """Read the step from the file `last` or `best` in the folder `root`; None if it cannot be read."""
    try:
        with open_file(root / name) as file:
            return int(file.read(32))
    except (OSError, ValueError):
        return None


def save(root: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint, and its step to the file `last`.

    Raises MatscaleError if the disk is full or cannot be written. Existing checkpoints are kept.
    """
    final = folder_of(root, checkpoint.step)
    try:
        make_folder(root)
        with replacing_folder(final) as temporary:
            _write(temporary, checkpoint)
        write_text(root / "last", f"{checkpoint.step}\n")
    except DiskError as error:
        raise error.told("The previous checkpoint is complete: continue from there with --resume.") from error
    return final


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    groups = {"model": checkpoint.model, "ema": checkpoint.ema, "optimizer": checkpoint.optimizer}
    digests = {
        f"{name}.safetensors": write_tensors(folder / f"{name}.safetensors", tensors)
        for name, tensors in groups.items()
        if tensors is not None
    }
    told = {
        "tensors": _signature(groups),
        "non_finite": {k: _non_finite(v) for k, v in groups.items() if v is not None},
    }
    state = {"step": checkpoint.step, **checkpoint.state, **told}
    write_text(folder / "state.json", json.dumps({**state, DIGEST: digest_of(state)}))
    digests["state.json"] = sha256_of(folder / "state.json")
    files = {name: {"size": (folder / name).stat().st_size, "sha256": digests[name]} for name in sorted(digests)}
    manifest = {"format_version": FORMAT_VERSION, "step": checkpoint.step, "files": files}
    write_text(folder / "manifest.json", json.dumps(manifest, indent=1))


_NAMES = {
    torch.int64: "I64", torch.float64: "F64", torch.float32: "F32", torch.int32: "I32", torch.bfloat16: "BF16",
    torch.float16: "F16", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
"""Name of each dtype in a file.

The order is that in which the safetensors library writes tensors: wide types first.
"""


def write_tensors(path: Path, tensors: Tensors) -> str:
    """Write a safetensors file, with the same bytes as the safetensors library. Returns the SHA-256 of the file.

    The library's own function is not used: it ignores the umask, hides errors of the disk, and refuses tensors that
    share memory (tied weights) unless they are copied first.
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
    digest = hashlib.sha256()
    with ThreadPoolExecutor(1) as hashing:

        def hashed(blocks: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
            for block in blocks:
                done = hashing.submit(digest.update, block)  # while it is written
                yield block
                done.result()

        write_blocks(path, hashed(chain([len(text).to_bytes(8, "little"), text], contents)))
    return digest.hexdigest()


def verify(folder: Path) -> dict[str, Any]:
    """Check that every file of a checkpoint is as it was written. Returns the manifest.

    Raises DamagedCheckpoint that names the wrong file.
    """
    manifest = _manifest(folder)
    for name, entry in manifest["files"].items():
        if Path(name).name != name:
            raise DamagedCheckpoint(f"{folder}: {name} is missing.")
        _check(folder / name, entry)
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a checkpoint.

    Raises DamagedCheckpoint if it is damaged, belongs to another step, or does not list the files of a checkpoint.
    """
    manifest = read_sealed(folder / "manifest.json", error=DamagedCheckpoint)
    version, files = manifest.get("format_version"), manifest.get("files")
    if not isinstance(version, int) or not isinstance(files, dict):
        raise DamagedCheckpoint(f"{folder}: manifest.json does not belong to a checkpoint.")
    if version > FORMAT_VERSION:
        raise MatscaleError(f"{folder}: written by a newer matscale (format {version}). Update matscale.")
    if not {"model.safetensors", "optimizer.safetensors", "state.json"} <= set(files):
        raise DamagedCheckpoint(f"{folder}: manifest.json does not list the files of a checkpoint.")
    if folder_of(folder.parent, manifest.get("step", -1)).name != folder.name:
        raise DamagedCheckpoint(f"{folder}: its manifest.json is of another step, {manifest.get('step')}.")
    return manifest


def _check(path: Path, entry: Any) -> None:
    if not path.is_file():
        raise DamagedCheckpoint(f"{path.parent}: {path.name} is missing.")
    size, digest = (entry.get("size"), entry.get("sha256")) if isinstance(entry, dict) else (None, None)
    if path.stat().st_size != size:
        raise DamagedCheckpoint(f"{path}: has {path.stat().st_size} bytes, but {size} were written.")
    if sha256_of(path) != digest:
        raise DamagedCheckpoint(f"{path}: its content has changed since it was written (SHA-256 differs).")


def read_state(folder: Path, *, whole: bool = False) -> dict[str, Any]:
    """Read and verify state.json of a checkpoint. With `whole`, all other files are verified, too."""
    manifest = verify(folder) if whole else _manifest(folder)
    _check(folder / "state.json", manifest["files"]["state.json"])
    state = read_sealed(folder / "state.json", error=DamagedCheckpoint)
    if DIGEST not in state and "tensors" in state:
        raise DamagedCheckpoint(f"{folder}: state.json is damaged (its digest is missing).")
    groups = state.get("tensors")
    listed = {name.removesuffix(".safetensors") for name in manifest["files"] if name.endswith(".safetensors")}
    if groups is not None and listed != {*groups}:
        raise DamagedCheckpoint(f"{folder}: manifest.json does not list the tensors that were saved.")
    if state.get("step") != manifest["step"]:
        raise DamagedCheckpoint(f"{folder}: its state.json is of another step, {state.get('step')}.")
    return state


def load(folder: Path) -> Checkpoint:
    """Read a checkpoint. Raises DamagedCheckpoint if a file is damaged or missing."""
    state = read_state(folder, whole=True)
    names = [name for name in GROUPS if name != "ema" or (folder / "ema.safetensors").exists()]
    groups: dict[str, dict[str, Tensor]] = {name: _tensors(folder, name, state) for name in names}
    rest = {key: value for key, value in state.items() if key not in ("step", "tensors", "non_finite", DIGEST)}
    return Checkpoint(int(state["step"]), groups["model"], groups.get("ema"), groups["optimizer"], rest)


def load_weights(folder: Path, averaged: bool = True) -> dict[str, Tensor]:
    """Read and verify the weights of the Potential in a checkpoint.

    They are the averaged weights if `averaged` is True and the checkpoint has an average.
    """
    files = verify(folder)["files"]
    return _tensors(folder, "ema" if averaged and "ema.safetensors" in files else "model", read_state(folder))


def has_average(folder: Path) -> bool:
    """Whether a checkpoint has averaged weights."""
    return (folder / "ema.safetensors").exists()


def _tensors(folder: Path, group: str, state: Mapping[str, Any]) -> dict[str, Tensor]:
    from safetensors import SafetensorError  # start-up: safetensors
    from safetensors.torch import load_file

    path = folder / f"{group}.safetensors"
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{path}: cannot be read ({error}).") from None
    if "tensors" in state and state["tensors"].get(group) != _signature({group: tensors})[group]:
        raise DamagedCheckpoint(f"{path}: its tensors have other names, shapes or types than those that were saved.")
    if bad := sorted({*_non_finite(tensors)} - {*state.get("non_finite", {}).get(group, tensors)}):
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteCheckpoint(f"{path}: holds numbers that are not finite ({', '.join(bad[:3])}{more}).")
    return tensors


def _non_finite(tensors: Tensors) -> list[str]:
    # A sum is not finite if one of its terms is not, and takes a tenth of the time.
    return [
        name
        for name, value in tensors.items()
        if value.is_floating_point() and not value.sum().isfinite() and not value.isfinite().all()
    ]


def _signature(groups: Mapping[str, Tensors | None]) -> dict[str, str]:
    """Digest of the names, types and shapes of the tensors in each group (model, ema, optimizer)."""
    told = {
        group: sorted([name, str(value.dtype), list(value.shape)] for name, value in tensors.items())
        for group, tensors in groups.items()
        if tensors is not None
    }
    return {group: hashlib.sha256(json.dumps(rows).encode()).hexdigest() for group, rows in told.items()}


def load_latest(root: Path, usable: Callable[[Checkpoint], bool] = lambda saved: True) -> Checkpoint | None:
    """Load the newest checkpoint that is undamaged and for which `usable` returns True; None if there is none.

    Each damaged checkpoint gives a warning. If `usable` raises DamagedCheckpoint, the checkpoint counts as damaged.
    """
    for step in reversed(steps(root)):
        try:
            saved = load(folder_of(root, step))
            if usable(saved):
                return saved
        except DamagedCheckpoint as error:
            before = "The checkpoint before it is used." if step != steps(root)[0] else "There is none before it."
            warnings.warn(f"{error} {before}", stacklevel=2)
    return None


def prune(root: Path, keep: int, for_good: Sequence[int] = ()) -> None:
    """Delete checkpoints, except the `keep` latest ones, the best one, and those of the steps `for_good`.

    Half-written checkpoints are deleted, too.
    """
    spared = {*steps(root)[-keep:], *for_good, pointer(root, "best"), pointer(root, "last")}
    for step in steps(root):
        if step not in spared:
            remove(folder_of(root, step))
    sweep_up(root, alone=True)
