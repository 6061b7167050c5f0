"""Limits on the size of a model built from a configuration: a wrong number must not fill the memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook as on_module
from torch.nn.modules.module import register_module_parameter_registration_hook as on_parameter

from matscale.core.errors import ConfigError

MOST_PARTS = 20_000
"""Layers and arrays of weights of one model; the largest that are published have some thousands."""
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
