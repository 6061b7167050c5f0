"""A fairchem checkpoint, which is a pickle, as plain tensors and JSON. Runs on its own, in a process of its own:

    python -I unpickle.py CHECKPOINT FOLDER    ->    FOLDER/content.json, FOLDER/tensors.safetensors

A pickle is a program. This is the only file of matscale that runs one, and it trusts nothing: `matscale import` starts
it by its path, so that no other part of matscale is in the process. In this order:

1. The archive has to be what `torch.save` writes: a zip whose members are stored, not compressed, so that nothing in it
   can be larger than the file.
2. The pickle is read as a list of instructions, without running them. Every global that it names has to be one of
   `ALLOWED`: ordered dicts, and what rebuilds a tensor from its bytes. Anything else is refused by name.
3. `torch.load` with `weights_only=True`, which has such a list of its own, under a limit of memory.
4. What comes out has to be numbers, texts, lists, dicts and tensors under keys that are known (`TAKEN`, `PASSED_OVER`).

Exit code 3 with one line on stderr for a file that is refused.
"""

from __future__ import annotations

import json
import pickletools
import re
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

REFUSED = 3
TAKEN = ("state_dict", "ema", "normalizers", "elementrefs", "config", "epoch", "step", "val_metrics")
"""Top-level keys that are handed on."""
PASSED_OVER = ("optimizer", "scheduler", "amp", "best_val_metric", "primary_metric", "scale_dict")
"""Top-level keys of the training that has ended; `scale_dict` belongs to GemNet."""

_STORAGES = ["Double", "Float", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool"]
_DTYPES = ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
ALLOWED = frozenset(
    {
        "collections OrderedDict",
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_parameter",
        "torch Size",
        *(f"torch {name}Storage" for name in _STORAGES),
        *(f"torch {name}" for name in _DTYPES),
    }
)
"""`module name` of all that a checkpoint may refer to."""

MAX_PICKLE = 64 * 2**20
"""Bytes of instructions; a model of 153 million parameters has less than one hundredth of it."""
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
MARGIN = 2 * 2**30
"""Bytes of memory beyond four times the file."""
MIN_TORCH = (2, 10)
"""Before it, even `weights_only=True` could be tricked."""

_BY_NAME = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ"}
"""Instructions that name a global in ways which torch.save does not use."""


class RefusedError(Exception):
    """The file is not a checkpoint that can be imported, and why."""


def check_archive(path: Path) -> None:
    """Steps 1 and 2: nothing of the file is run."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED:
                    raise RefusedError(f"its member {member.filename!r} is compressed, which torch.save never does")
            pickles = [m for m in members if m.filename.endswith(".pkl")]
            if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl"):
                raise RefusedError("it is a zip file, but not one that torch.save wrote (no single data.pkl in it)")
            if pickles[0].file_size > MAX_PICKLE:
                raise RefusedError(f"its pickle has {pickles[0].file_size} bytes, more than {MAX_PICKLE}")
            instructions = archive.read(pickles[0])
    except zipfile.BadZipFile:
        raise RefusedError("it is not a zip file as torch.save has written them since torch 1.6") from None
    try:
        unknown = sorted(set(globals_named(instructions)) - ALLOWED)
    except (ValueError, IndexError, UnicodeError) as error:
        raise RefusedError(f"its pickle is damaged ({error})") from None
    if unknown:
        shown = ", ".join(name.replace(" ", ".") for name in unknown)
        raise RefusedError(f"it refers to {shown}: a checkpoint holds tensors, numbers and texts, never code")


def globals_named(instructions: bytes) -> Iterator[str]:
    """`module name` of every global in a pickle, without running it."""
    for opcode, argument, _ in pickletools.genops(instructions):
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name in _BY_NAME:
            yield str(argument or opcode.name)


def load(path: Path) -> dict[str, Any]:
    """Step 3."""
    import torch

    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < MIN_TORCH:
        raise RefusedError(f"torch {torch.__version__} is too old to read a pickle safely: pip install 'torch>=2.10'")
    limit_memory(4 * path.stat().st_size + MARGIN)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever the file makes it raise, it is refused
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise RefusedError(f"torch.load refuses it: {type(error).__name__}: {reason}") from None
    if not isinstance(content, dict):
        raise RefusedError(f"it holds a {type(content).__name__}, not a dict with the key 'state_dict'")
    return content


def limit_memory(more: int) -> None:
    """Let this process have `more` bytes than it has. Without effect where the system cannot."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        print("The memory of the import is not limited on this system.", file=sys.stderr)


class Flat:
    """Plain values and, apart, tensors: a tensor in a value becomes {"tensor": its name}."""

    def __init__(self, max_bytes: int) -> None:
        self.tensors: dict[str, Any] = {}
        self.names: dict[tuple[Any, ...], str] = {}
        self.n_values, self.n_bytes, self.max_bytes = 0, 0, max_bytes

    def value(self, name: str, value: Any, depth: int = 0) -> Any:
        """`value` ready for JSON. Raises RefusedError that names what it cannot be."""
        import torch

        self.n_values += 1
        if self.n_values > MAX_VALUES or depth > MAX_DEPTH:
            raise RefusedError(f"{name}: more than {MAX_VALUES} values, or more than {MAX_DEPTH} inside each other")
        if isinstance(value, torch.Tensor):
            return self._tensor(name, value)
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str | int):
                    raise RefusedError(f"{name}: has a key of type {type(key).__name__}")
            return {str(key): self.value(f"{name}.{key}", inner, depth + 1) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(f"{name}.{k}", inner, depth + 1) for k, inner in enumerate(value)]
        if value is None or isinstance(value, str | int | float):
            return value
        raise RefusedError(f"{name}: is a {type(value).__name__}, not a number, text, list, dict or tensor")

    def _tensor(self, name: str, tensor: Any) -> dict[str, str]:
        # Tables that many layers share are written once.
        identity = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and identity in self.names:
            return {"tensor": self.names[identity]}
        self.names[identity] = name
        # A tensor may claim any shape over a few bytes (strides of 0): what is written may not exceed what was read.
        self.n_bytes += tensor.numel() * tensor.element_size()
        if self.n_bytes > self.max_bytes:
            raise RefusedError(f"{name}: its tensors would take more than the {self.max_bytes} bytes of the file")
        self.tensors[name] = tensor.detach().clone(memory_format=sys.modules["torch"].contiguous_format)
        return {"tensor": name}


def main(path: Path, folder: Path) -> None:
    check_archive(path)
    content = load(path)
    unknown = [str(key) for key in content if key not in TAKEN and key not in PASSED_OVER]
    if unknown:
        raise RefusedError(
            f"it has the unknown key {', '.join(sorted(unknown))}. Known: {', '.join(TAKEN + PASSED_OVER)}"
        )
    if isinstance(content.get("ema"), dict):
        content["ema"].pop("collected_params", None)  # what a validation puts aside: the raw weights once more
    flat = Flat(path.stat().st_size)
    plain = {key: flat.value(key, content[key]) for key in TAKEN if key in content}
    from safetensors.torch import save_file

    save_file(flat.tensors, folder / "tensors.safetensors")
    (folder / "content.json").write_text(json.dumps(plain), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RefusedError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
