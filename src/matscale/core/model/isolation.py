"""Isolation of other packages: a context that restores the state of the process afterwards.

Packages of models may change global state when they are imported or build a model: the default type of tensors, the
seeds of all generators, the way in which processes share tensors, filters of warnings, and environment variables, which
child processes inherit (one such variable disables the safe loading of torch). A plugin that wraps such a package
imports it and builds models inside this context.
"""

from __future__ import annotations

import os
import random
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import numpy as np
import torch


@contextmanager
def isolation() -> Iterator[None]:
    """Context that restores environment, random generators, default type, multiprocessing and filters of warnings.

    They are restored even if the block raises an error. Imported modules stay. Warnings of the package are not shown;
    its prints go to stderr, so that they do not mix with results.
    """
    environment, default = dict(os.environ), torch.get_default_dtype()
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  (what others reseed is this one)
    sharing = torch.multiprocessing.get_sharing_strategy()
    starting = torch.multiprocessing.get_start_method(allow_none=True)
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices), warnings.catch_warnings(), redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.multiprocessing.set_sharing_strategy(sharing)
        torch.multiprocessing.set_start_method(starting, force=True)
        np.random.set_state(of_numpy)  # noqa: NPY002
        random.setstate(of_python)
        torch.set_default_dtype(default)
        _restore(environment)


def _restore(environment: dict[str, str]) -> None:
    """Restore the environment variables. Only those that differ are written, since every write calls the C library."""
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update({name: value for name, value in environment.items() if os.environ.get(name) != value})
