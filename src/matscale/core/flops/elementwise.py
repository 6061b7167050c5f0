"""Count element-wise work: all operations except contractions (matrix products, convolutions, attention).

An element-wise operator counts one FLOP per element of its result, a reduction or a scattered sum one per input
element, for any function (an exponential counts as one FLOP). Compound kernels count their passes (`_PASSES`).
Look-ups, copies, comparisons and integer operations count nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_MOVES = {"clone", "copy", "fill", "where", "masked_fill", "zero", "bernoulli", "nan_to_num"}
_PASSES = {
    "native_layer_norm": 5,
    "native_layer_norm_backward": 8,
    "_fused_rms_norm": 4,
    "_fused_rms_norm_backward": 7,
    "_softmax": 5,
    "_softmax_backward_data": 4,
    "_log_softmax": 5,
    "_log_softmax_backward_data": 4,
    "native_dropout": 1,
    "native_dropout_backward": 1,
}
"""Number of operations per element of the first argument, by compound kernel."""
_REDUCTIONS = {"sum", "mean", "amax", "amin", "prod", "var", "std", "var_mean", "norm", "linalg_vector_norm", "cumsum"}
_SCATTERED = {"index_add": 3, "scatter_add": 3, "scatter_reduce": 3, "embedding_dense_backward": 0, "index_put": 2}
"""Index of the argument that is added, by the name of an operator that sums elements at given indices."""
_NATIVE = frozenset({"aten", "prim", "prims", "profiler", "c10d", "_c10d_functional"})


class ElementwiseCounter(TorchDispatchMode):
    """Counter of element-wise work; `opaque` names operators from outside torch, whose work is unknown."""

    def __init__(self, known: set[Any]) -> None:
        """Set up the counter. `known` operators are counted elsewhere."""
        super().__init__()
        self.known, self.flops, self.opaque = known, 0.0, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        if packet in self.known:
            return out
        if getattr(func, "namespace", "aten") not in _NATIVE:
            self.opaque.add(str(packet))
        else:
            self.flops += _elementwise(func, args, out)
        return out


def _elementwise(func: Any, args: Any, out: Any) -> int:
    name = func._schema.name.split("::")[-1]
    name = name if name.startswith("_") else name.rstrip("_")
    if name in _MOVES or getattr(func, "is_view", False):
        return 0
    if name in _PASSES:
        return _PASSES[name] * _numel(args[0])
    if name in _REDUCTIONS:
        return _numel(args[0])
    if name in _SCATTERED:
        return _numel(args[_SCATTERED[name]])
    return _numel(out) if torch.Tag.pointwise in func.tags else 0


def _numel(x: Any) -> int:
    """Number of elements of a floating-point tensor, or of the first of several tensors; 0 for anything else."""
    if isinstance(x, tuple | list):
        return _numel(x[0]) if x else 0
    return x.numel() if isinstance(x, Tensor) and x.is_floating_point() else 0
