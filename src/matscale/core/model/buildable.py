"""Limits on the size of a model built from a configuration, so that a wrong number does not fill the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook as on_module
from torch.nn.modules.module import register_module_parameter_registration_hook as on_parameter
from torch.overrides import TorchFunctionMode

from matscale.core.errors import ConfigError

MOST_PARTS = 20_000
"""Largest number of layers and weight arrays of one model; the largest published models have some thousands."""
LARGE = 500
"""Limit on the integers of a configuration. If one is larger, the parts of the model are counted before it is built."""
_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "numel: integer multiplication",
)
"""Parts of torch's error messages for a lack of memory; on a CPU torch has no exception class for it."""


@contextmanager
def buildable(name: str) -> Iterator[None]:
    """Context for building a model of the architecture `name`.

    Raises ConfigError if the model has too many parts or does not fit in the memory.
    """
    parts = 0

    def count(module: nn.Module, key: str, part: object) -> None:
        nonlocal parts
        parts += 1
        if parts > MOST_PARTS:
            raise ConfigError(
                f"architecture.config of {name}: makes a model of more than {MOST_PARTS:,} layers and arrays of "
                "weights. Give fewer layers."
            )

    handles = on_module(count), on_parameter(count)
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in _OF_MEMORY):
            raise
        said = str(error).splitlines()[0][:200] if str(error) else "out of memory"
        raise ConfigError(
            f"architecture.config of {name}: makes a model that does not fit in the memory ({said}). "
            "Give a smaller one."
        ) from None
    finally:
        for handle in handles:
            handle.remove()


class _WithoutValues(TorchFunctionMode):
    """Torch mode, for the device `meta`, in which `uniform_`, `zero_` and other in-place fills do nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _FILLS and args and isinstance(args[0], torch.Tensor):
            return args[0]
        return func(*args, **(kwargs or {}))


_FILLS = frozenset(
    getattr(torch.Tensor, name)
    for name in (*("uniform_", "normal_", "zero_", "fill_", "clamp_", "erfinv_", "mul_", "add_", "copy_"),)
)


def without_weights(name: str, build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model on torch's device `meta`: nothing is allocated and no weight is drawn.

    Raises ConfigError for too many parts, and NotImplementedError or RuntimeError for a model that reads values of
    tensors when it is built.
    """
    with torch.device("meta"), _WithoutValues(), buildable(name):
        return build()


def check_parts(name: str, values: Any, build: Callable[[], nn.Module]) -> None:
    """Raise ConfigError if a model has too many parts, before any weight is drawn.

    `values` is the config of the model as plain values.
    """
    if not _has_large(values):
        return
    try:
        without_weights(name, build)
    except (NotImplementedError, RuntimeError):
        return  # it reads values of tensors, so its parts are counted while it is built


def _has_large(values: Any) -> bool:
    if isinstance(values, dict):
        return any(map(_has_large, values.values()))
    if isinstance(values, (list, tuple)):
        return any(map(_has_large, values))
    return isinstance(values, int) and values > LARGE
