"""A pretended GPU: tensors that say `cuda:0` and hold their values on the CPU, and a torch.cuda that finds one device.

Whatever runs on it computes on the CPU, so that its numbers can be compared. An operation between tensors of the two
devices raises `Meeting`, as it does on a GPU; operations for which the CPU waits for a GPU are counted, with file and
line. The C++ part of torch sees the device `meta`, since a torch for CPUs aborts in the backward pass of its own fake
CUDA tensors. Not imitated: autocast, streams, and what a GPU rounds in another way.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

CUDA = torch.device("cuda", 0)
SRC = str(Path(__file__).resolve().parents[1] / "src")
aten = torch.ops.aten

BETWEEN = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}
"""Operations that take tensors of both devices; indices may be on the CPU."""
WAITING = {
    aten._local_scalar_dense,
    aten.nonzero,
    aten.masked_select,
    aten.equal,
    aten.bincount,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.is_nonzero,
}
"""Operations whose result, or its size, the CPU needs."""


class Meeting(RuntimeError):
    """Error for an operation between tensors on two devices."""


class Pretended(Tensor):
    """Tensor that says `cuda:0`."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Pretended:
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device="meta"
        )

    def __init__(self, held: Tensor) -> None:
        self.held = held

    device = property(lambda self: CUDA)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]
    is_meta = property(lambda self: False)  # type: ignore[assignment]

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: Pretended) -> None:
        self.held = other.held

    def __repr__(self, **_: Any) -> str:
        return f"Pretended({self.held!r})"

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in OWN:
            return OWN[func](*args, **(kwargs or {}))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **(kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


def _refused(x: Tensor, *arguments: Any, **options: Any) -> Any:
    raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it first.")


def _copied(x: Pretended, memo: dict[int, Any]) -> Tensor:
    if id(x) not in memo:
        memo[id(x)] = made = x.detach().clone().requires_grad_(x.requires_grad)
        if isinstance(x, torch.nn.Parameter):
            made._is_param = True
    return memo[id(x)]


def _listed(x: Pretended) -> Any:
    _wait()
    return x.held.detach().tolist()


def _new_tensor(x: Pretended, data: Any, *, dtype: torch.dtype | None = None, device: Any = None, **_: Any) -> Tensor:
    return torch.tensor(data, dtype=dtype or x.dtype, device=device or CUDA)


def _with_tensors(index: Any) -> Any:
    """Index with tensors in place of lists, of which C++ would make tensors without values."""
    if isinstance(index, tuple):
        return tuple(map(_with_tensors, index))
    return torch.tensor(index).to("meta") if isinstance(index, list | np.ndarray) else index


def _got(x: Tensor, index: Any) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return Tensor.__getitem__(x, _with_tensors(index))


def _set(x: Tensor, index: Any, value: Any) -> None:
    with torch._C.DisableTorchFunctionSubclass():
        Tensor.__setitem__(x, _with_tensors(index), value)


OWN: dict[Any, Any] = {
    Tensor.__getitem__: _got,
    Tensor.__setitem__: _set,
    Tensor.tolist: _listed,
    Tensor.numpy: _refused,
    Tensor.__array__: _refused,
    Tensor.__deepcopy__: _copied,
    Tensor.new_tensor: _new_tensor,
    Tensor.__repr__: lambda x, **_: f"Pretended({x.held!r})",
    Tensor.is_pinned: lambda x, *_: False,
    Tensor.get_device: lambda x: 0,
}
"""Functions that look at the device in C++, or that wrapper tensors do not have."""

waits: Counter[str] = Counter()
"""Number of times that the CPU waited for the device, by file and line in `src`."""


def _wait() -> None:
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(SRC):
            waits[f"{Path(frame.f_code.co_filename).relative_to(SRC)}:{frame.f_lineno}"] += 1
            return
        frame = frame.f_back  # type: ignore[assignment]
    waits["elsewhere"] += 1


def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU, and return tensors of the device on which a GPU would have the result."""
    packet = func.overloadpacket
    if packet is aten.is_pinned:
        return False
    if packet is aten._pin_memory:
        return args[0].clone()
    ours, others = dict[int, Pretended](), list[Tensor]()

    def plain(x: Any) -> Any:
        if isinstance(x, Pretended):
            ours[id(x.held)] = x
            return x.held
        if isinstance(x, list | tuple):
            return type(x)(map(plain, x))
        if isinstance(x, Tensor) and x.dim() > 0:
            others.append(x)
        return x

    def wrapped(x: Any) -> Any:
        if isinstance(x, Tensor):
            return ours[id(x)] if id(x) in ours else Pretended(x)
        return type(x)(map(wrapped, x)) if isinstance(x, list | tuple) else x

    plain_args, plain_kwargs = plain(tuple(args)), {name: plain(value) for name, value in kwargs.items()}
    if ours and others and packet not in BETWEEN:
        raise Meeting(f"{func}: expected all tensors to be on the same device, but found at least two, cuda:0 and cpu!")
    device = kwargs.get("device")
    on_gpu = bool(ours) if device is None else torch.device(device).type in ("cuda", "meta")
    is_mask = packet is aten.index and any(x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1])
    if ours and (packet in WAITING or is_mask or (device is not None and not on_gpu)):
        _wait()
    if packet is aten.copy_ and isinstance(args[1], Pretended) and not isinstance(args[0], Pretended):
        _wait()
    if device is not None:
        plain_kwargs["device"] = torch.device("cpu")
    plain_kwargs.pop("pin_memory", None)
    found = func(*plain_args, **plain_kwargs)
    if packet is aten.copy_:
        return args[0]
    return wrapped(found) if on_gpu else found


class Named(TorchFunctionMode):
    """Mode in which `cuda:0` means the device that the C++ part of torch sees, so that it looks for no GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.device:  # making a name is no use of the device
            return func(*args, **(kwargs or {}))
        named = {name: _renamed(value) for name, value in (kwargs or {}).items()}
        if func in (torch.tensor, torch.as_tensor, torch.asarray) and named.get("device") is not None:
            device = named.pop("device")  # on the device `meta`, they would make tensors without values
            return func(*args, **named).to(device)
        return func(*map(_renamed, args), **named)


def _renamed(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == "cuda":
        return torch.device("meta")
    return "meta" if isinstance(value, str) and value.partition(":")[0] == "cuda" else value


class Device(TorchDispatchMode):
    """Mode in which tensors that are made on the GPU, or moved there, are pretended ones."""

    takes_any_form = True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


MOCKED: dict[str, Any] = {
    "_lazy_init": lambda: None,
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda device: None,
    "synchronize": lambda device=None: None,
    "get_device_name": lambda device=None: "NVIDIA H100 80GB HBM3",
    "get_device_capability": lambda device=None: (9, 0),
    "get_device_properties": lambda device=None: SimpleNamespace(total_memory=80 << 30),
    "max_memory_allocated": lambda device=None: 1 << 20,
    "reset_peak_memory_stats": lambda device=None: None,
    "mem_get_info": lambda device=None: (80 << 30, 80 << 30),
    "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda state, device=None: None,
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
}
"""Functions of torch.cuda."""


@contextmanager
def pretended_gpu() -> Iterator[Counter[str]]:
    """Context in which torch finds one GPU, a pretended one. Yields the waits for it, by file and line."""
    waits.clear()
    with pytest.MonkeyPatch.context() as patch:
        for name, mock in MOCKED.items():
            patch.setattr(f"torch.cuda.{name}", mock)
        with Device(), Named():
            yield waits
