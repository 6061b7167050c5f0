"""Convert a fairchem checkpoint, which is a pickle, to plain tensors and JSON. Runs in a process of its own:

    python -I unpickle.py CHECKPOINT FOLDER    ->    FOLDER/content.json, FOLDER/tensors.safetensors

A pickle is a program. This is the only file of matscale that loads one. `matscale import` starts it by its path, so
that no other part of matscale is in the process. Its steps:

1. Check that the archive has the form of `torch.save`: a zip file with stored, uncompressed members, so that no member
   is larger than the file.
2. Read the pickle as a list of instructions, without running them. Every global in it must be in `ALLOWED` (ordered
   dicts, and functions that rebuild a tensor from its bytes) or in `STAND_INS` (classes in which fairchem 2 wraps dicts
   and lists). The file is refused if there is any other global.
3. Call `torch.load` with `weights_only=True`, which has a similar list of allowed globals, under a memory limit. No
   class of fairchem 2 is imported: a class that only stores attributes (`Inert`) replaces each of them.
4. Check that the result has only numbers, texts, lists, dicts and tensors, under known keys (`TAKEN`, `PASSED_OVER`,
   `INFERENCE`).

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
TAKEN = ("state_dict", "ema", "normalizers", "elementrefs", "config", "epoch", "step", "val_metrics", "scale_dict")
"""Top-level keys that are passed on; `scale_dict` has scale factors of old GemNets."""
PASSED_OVER = ("optimizer", "scheduler", "amp", "best_val_metric", "primary_metric")
"""Top-level keys of the finished training, which are ignored."""
INFERENCE = ("model_config", "model_state_dict", "ema_state_dict", "tasks_config")
"""Keys of an inference checkpoint of fairchem 2; all of them are passed on."""

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
"""Globals to which a checkpoint may refer, as `module name`."""
_CHECKPOINT = "fairchem.core.units.mlip_unit.api.inference MLIPInferenceCheckpoint"
_DICT, _LIST, _NODE = "omegaconf.dictconfig DictConfig", "omegaconf.listconfig ListConfig", "omegaconf.nodes AnyNode"
STAND_INS = (
    *(_CHECKPOINT, _DICT, _LIST, _NODE, "omegaconf.base ContainerMetadata", "omegaconf.base Metadata"),
    *("typing Any", "collections defaultdict", "__builtin__ dict", "__builtin__ list", "__builtin__ long"),
)
"""Classes that are replaced by a stand-in, as `module name`: they state the type of a setting, or wrap it."""

MAX_PICKLE = 64 * 2**20
"""Largest size of the instructions [bytes]; a model of 153 million parameters has less than a hundredth of it."""
MAX_VALUES = 1_000_000
MAX_DEPTH = 32
MARGIN = 2 * 2**30
"""Memory [bytes] that the import may use in addition to four times the size of the file."""
MIN_TORCH = (2, 10)
"""Oldest safe version of torch; with older ones, a file can circumvent `weights_only=True`."""

_BY_NAME = {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4", "OBJ"}
"""Instructions that name a global in a way that torch.save does not use."""


class RefusedError(Exception):
    """Error for a file that cannot be imported as a checkpoint; the message gives the reason."""


def check_archive(path: Path) -> None:
    """Check the archive and its instructions (steps 1 and 2) without running anything of the file."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                if member.compress_type != zipfile.ZIP_STORED:
                    raise RefusedError(f"its member {member.filename!r} is compressed, unlike those of torch.save")
            pickles = [m for m in members if m.filename.endswith(".pkl")]
            if len(pickles) != 1 or not pickles[0].filename.endswith("data.pkl"):
                raise RefusedError("it is a zip file, but not one that torch.save wrote (no single data.pkl in it)")
            if pickles[0].file_size > MAX_PICKLE:
                raise RefusedError(f"its pickle has {pickles[0].file_size} bytes, more than {MAX_PICKLE}")
            instructions = archive.read(pickles[0])
    except zipfile.BadZipFile:
        raise RefusedError("it is not a zip file, which torch.save writes since torch 1.6") from None
    try:
        unknown = sorted(set(globals_named(instructions)) - ALLOWED - set(STAND_INS))
    except (ValueError, IndexError, UnicodeError) as error:
        raise RefusedError(f"its pickle is damaged ({error})") from None
    if unknown:
        shown = ", ".join(name.replace(" ", ".") for name in unknown)
        raise RefusedError(f"it refers to {shown}: a checkpoint holds tensors, numbers and texts, never code")


def globals_named(instructions: bytes) -> Iterator[str]:
    """Names `module name` of every global in a pickle, found without running it."""
    for opcode, argument, _ in pickletools.genops(instructions):
        if opcode.name == "GLOBAL":
            yield str(argument)
        elif opcode.name in _BY_NAME:
            yield str(argument or opcode.name)


class Inert:
    """Stand-in for a class of fairchem 2. It stores its arguments and does nothing else."""

    def __init__(self, *values: Any) -> None:
        self.values = values


def stand_ins() -> dict[str, type[Inert]]:
    """Stand-in classes, a separate one for each `module name` in `STAND_INS`."""
    return {name: type(name.rpartition(" ")[2], (Inert,), {"stands_for": name}) for name in STAND_INS}


def _as_torch_says(name: str) -> str:
    """Name of a global in torch's form: with dots, and builtins of Python 2 as in Python 3."""
    module, _, attribute = name.partition(" ")
    if module != "__builtin__":
        return f"{module}.{attribute}"
    return f"builtins.{'int' if attribute == 'long' else attribute}"


def unwrapped(value: Any) -> Any:
    """Unwrap a dict, list or setting of fairchem 2; other values are returned unchanged. Inner values stay wrapped."""
    held, kind = getattr(value, "__dict__", {}), getattr(value, "stands_for", None)
    if kind == _NODE:
        return held.get("_val", value)
    content = held.get("_content", value)
    wraps = {_DICT: dict, _LIST: list}.get(str(kind), Inert)
    return content if content is None or type(content) is wraps else value


def load(path: Path) -> dict[str, Any]:
    """Load the checkpoint with torch (step 3)."""
    import torch  # start-up: a file that is refused before does not wait for torch

    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < MIN_TORCH:
        raise RefusedError(f"torch {torch.__version__} is too old to read a pickle safely: pip install 'torch>=2.10'")
    torch.serialization.add_safe_globals([(kind, _as_torch_says(name)) for name, kind in stand_ins().items()])
    limit_memory(4 * path.stat().st_size + MARGIN)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any error means that the file is refused
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = next((line for line in lines if "WeightsUnpickler" in line), lines[0] if lines else "")
        raise RefusedError(f"torch.load refuses it: {type(error).__name__}: {reason}") from None
    if getattr(content, "stands_for", None) == _CHECKPOINT:
        return dict(vars(content))
    if not isinstance(content, dict):
        raise RefusedError(f"it holds a {type(content).__name__}, not a dict with the key 'state_dict'")
    return content


def limit_memory(more: int) -> None:
    """Limit the memory of this process to its present size plus `more` bytes, if the system supports it."""
    try:
        import resource  # not on Windows

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        print("The memory of the import is not limited on this system.", file=sys.stderr)


class Flat:
    """Converter to plain values with a separate table of tensors: a tensor becomes {"tensor": its name}."""

    def __init__(self, max_bytes: int) -> None:
        self.tensors: dict[str, Any] = {}
        self.names: dict[tuple[Any, ...], str] = {}
        self.n_values, self.n_bytes, self.max_bytes = 0, 0, max_bytes

    def value(self, name: str, value: Any, depth: int = 0) -> Any:
        """Convert `value` for JSON. Raises RefusedError that names a value of another kind."""
        import torch  # start-up: see `load`

        self.n_values += 1
        if self.n_values > MAX_VALUES or depth > MAX_DEPTH:
            raise RefusedError(f"{name}: more than {MAX_VALUES} values, or more than {MAX_DEPTH} levels")
        value = unwrapped(value)
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
        # A table that many layers share is written once.
        identity = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and identity in self.names:
            return {"tensor": self.names[identity]}
        self.names[identity] = name
        # A tensor may have any shape over a few bytes (strides of 0), so the written bytes are limited to the
        # file size.
        self.n_bytes += tensor.numel() * tensor.element_size()
        if self.n_bytes > self.max_bytes:
            raise RefusedError(f"{name}: its tensors would take more than the {self.max_bytes} bytes of the file")
        self.tensors[name] = tensor.detach().clone(memory_format=sys.modules["torch"].contiguous_format)
        return {"tensor": name}


def main(path: Path, folder: Path) -> None:
    check_archive(path)
    content = load(path)
    taken, passed_over = (INFERENCE, ()) if "model_config" in content else (TAKEN, PASSED_OVER)
    unknown = [str(key) for key in content if key not in taken and key not in passed_over]
    if unknown:
        raise RefusedError(
            f"it has the unknown key {', '.join(sorted(unknown))}. Known: {', '.join((*taken, *passed_over))}"
        )
    if isinstance(content.get("ema"), dict):
        content["ema"].pop("collected_params", None)  # a second copy of the raw weights, stored by validation
    flat = Flat(path.stat().st_size)
    plain = {key: flat.value(key, content[key]) for key in taken if key in content}
    from safetensors.torch import save_file  # start-up: see `load`, since it imports torch

    save_file(flat.tensors, folder / "tensors.safetensors")
    (folder / "content.json").write_text(json.dumps(plain), encoding="utf-8")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except RefusedError as error:
        print(error, file=sys.stderr)
        sys.exit(REFUSED)
