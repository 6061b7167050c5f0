"""Memory that a training step needs, measured on small batches and extrapolated to large ones.

Every tensor that a step allocates is recorded until its storage is freed. The largest number of bytes allocated at once
is the memory of the activations, temporaries included. It does not depend on the device.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from matscale.core.data.batch import AtomicBatch, BatchShape
from matscale.core.flops.cost import fit
from matscale.core.flops.count import backward_of_any_loss
from matscale.core.model.potential import Potential
from matscale.core.train.compute import memory_bytes

Autocast = Callable[[], AbstractContextManager[object]]


class LiveBytes(TorchDispatchMode):
    """Allocated bytes of the tensors that were made within the context; `peak` is the highest value so far."""

    takes_any_form = True
    """Lets models use their fast form under this dispatch mode: see `matscale.core.model.reference_path`."""

    def __init__(self, existing: Sequence[Tensor] = ()) -> None:
        """Set up the record. `existing` tensors and their views do not count; they must outlive this object."""
        super().__init__()
        self.live, self.peak = 0, 0
        self._known = {x.untyped_storage()._cdata for x in existing}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._note(x.untyped_storage())
        return out

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or size == 0:
            return
        self._known.add(key)
        weakref.finalize(storage, self._forget, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def activation_bytes(
    potential: Potential, batch: AtomicBatch, autocast: Autocast = nullcontext, training: bool = True
) -> int:
    """Peak memory [bytes] of a training step on `batch`, without weights, gradients of weights and the batch itself.

    With `training` False, the peak of a prediction.
    """
    probe = copy.deepcopy(potential).train(training)
    for parameter in probe.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(_drop_gradient)
    batch = replace(batch, positions=batch.positions + 0)
    known = [*probe.parameters(), *probe.buffers(), *(x for x in vars(batch).values() if isinstance(x, Tensor))]
    watch = LiveBytes(known)
    devices = [batch.positions.device] if batch.positions.is_cuda else []
    with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(training), watch:
        with autocast():
            outputs = probe(batch)
        if training:
            backward_of_any_loss(outputs)
    return watch.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def activations_of(
    potential: Potential,
    batches: Sequence[AtomicBatch],
    autocast: Autocast = nullcontext,
    training: bool = True,
) -> Callable[[BatchShape], float]:
    """Fit a polynomial to the peak bytes of `batches`: returns the peak bytes of a batch as a function of its shape."""
    needed = [float(activation_bytes(potential, batch, autocast, training)) for batch in batches]
    return fit([batch.shape for batch in batches], needed)


def resident_bytes() -> int:
    """Memory of this process now, or its peak if the system does not report the present value."""
    try:
        import resource  # not on Windows

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except (OSError, ImportError, IndexError, ValueError):
        return memory_bytes(torch.device("cpu"))
