"""Limits on the size of a model built from a configuration: a wrong number must not fill the memory."""

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
"""Layers and arrays of weights of one model; the largest that are published have some thousands."""
LARGE = 500
"""An integer of a configuration above it may be a wrong number of layers: the model's parts are counted first."""
_OF_MEMORY = (
    "allocate memory",
    "out of memory",
    "Storage size calculation overflowed",
    "numel: integer multiplication",
)
"""Parts of torch's error messages for a lack of memory; on a CPU torch has no exception class for it."""


@contextmanager
def buildable(name: str) -> Iterator[None]:
    """Raise ConfigError for a model of the architecture `name` with too many parts, or larger than the memory."""
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
    """Leaves out what fills a tensor in place: `uniform_`, `zero_`, ...; on the device `meta` none has values."""

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

    Raises ConfigError for too many parts, and NotImplementedError or RuntimeError for a model that looks at values.
    """
    with torch.device("meta"), _WithoutValues(), buildable(name):
        return build()


def check_parts(name: str, values: Any, build: Callable[[], nn.Module]) -> None:
    """Raises ConfigError for a configuration (its plain values) of too many parts, before any weight is drawn."""
    if not _has_large(values):
        return
    try:
        without_weights(name, build)
    except (NotImplementedError, RuntimeError):
        return  # it looks at values of tensors: its parts are counted while it is built


def _has_large(values: Any) -> bool:
    if isinstance(values, dict):
        return any(map(_has_large, values.values()))
    if isinstance(values, (list, tuple)):
        return any(map(_has_large, values))
    return isinstance(values, int) and values > LARGE
