"""Check, before allocating memory, that a file has enough weights for a model with its options.

The options come from an untrusted file, which may ask for ten channels or for 10¹² in the same few bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from matscale.core.errors import ConfigError, MatscaleError
from matscale.core.model.architecture import ArchitectureConfig

MOST = 100_000
"""Largest number of channels, layers, neighbours and the like; lists of this length are made quickly."""


FREE = 1_000_000
"""Number of parameters up to which a model is always built; missing weights are reported later by name."""


class _TooLargeError(Exception):
    pass


def check_size(path: Path, config: ArchitectureConfig, build: Callable[[], nn.Module], n_numbers: int) -> None:
    """Build a model on torch's `meta` device, and stop as soon as its parameters exceed the `n_numbers` of the file.

    Raises ConfigError in that case, for absurdly large numbers, and for options with which no model can be built.
    """
    for name, value in config.model_dump().items():
        if any(
            isinstance(each, int) and each > MOST for each in (value if isinstance(value, list | tuple) else [value])
        ):
            raise ConfigError(f"{path}: its options have {name} = {value!r}, more than the {MOST:,} of any model.")
    try:
        with torch.device("meta"), _at_most(n_numbers):
            build()
    except MatscaleError:
        raise
    except _TooLargeError:
        raise ConfigError(
            f"{path}: its options make a model of more parameters than the {n_numbers:,} numbers among its weights: "
            "options and weights belong to different models."
        ) from None
    except Exception as error:  # wrong widths in the file may raise any error
        reason = str(error).splitlines()[0] if str(error) else ""
        raise ConfigError(f"{path}: no model can be built from its options: {type(error).__name__}: {reason}") from None


@contextmanager
def _at_most(n_numbers: int) -> Iterator[None]:
    seen: dict[int, nn.Parameter] = {}  # kept alive, so that their ids are not used again
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if parameter is None or id(parameter) in seen:
            return
        seen[id(parameter)] = parameter
        total += parameter.numel()
        if total > max(n_numbers, FREE):
            raise _TooLargeError

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()
