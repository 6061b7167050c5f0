"""Errors of a device without enough memory for a batch: the batch by its sizes, and smaller limits to type."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import MatscaleError
from matscale.core.runs.config import BatchConfig


class OutOfMemory(MatscaleError):
    """Error for a batch that does not fit in the memory of the device."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a GPU or the system has not enough memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemory):
        return True
    # The allocator of the CPU has no class of its own.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


@contextmanager
def memory_for(batch: AtomicBatch | None, config: BatchConfig) -> Iterator[None]:
    """Context for training on a batch, in which an error of memory becomes OutOfMemory."""
    try:
        yield
    except Exception as error:
        if batch is None or not is_out_of_memory(error):
            raise
        shape = batch.shape
        raise OutOfMemory(
            f"The device ran out of memory on a batch of {shape.n_structures} structures with {shape.n_atoms} atoms "
            f"and {shape.n_edges} edges ({str(error).splitlines()[0] if str(error) else 'no more is known'}). "
            + _advice(batch, config)
        ) from error


def _advice(batch: AtomicBatch, config: BatchConfig) -> str:
    save = "Save memory: --set compute.checkpoint_activations=true, or a smaller model (--params)."
    shape = batch.shape
    if shape.n_structures == 1:
        return f"It is one structure, so that smaller batches do not help. {save}"
    # Half of what this batch has bounds the next one, whichever limit ended it.
    sizes = {"structures": shape.n_structures, "atoms": shape.n_atoms, "edges": shape.n_edges}
    limits = {name: sizes[name] // 2 for name in sizes if getattr(config, name) is not None}
    halved = {name: limit for name, limit in limits.items() if limit}
    words = " ".join(f"--set batch.{name}={limit}" for name, limit in halved.items())
    return (
        f"Start a new run with batches of half the size, and the same steps: {words} --set "
        f"batch.accumulate={2 * config.accumulate}; limits of atoms or edges bound memory better than structures. "
        f"--batch auto measures what fits. {save}"
    )
