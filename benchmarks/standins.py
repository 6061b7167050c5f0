"""Stand-ins for torch_scatter and torch_sparse, of which fairchem-core 1.10.0 needs a few functions.

Built on torch and torch_geometric: the same numbers, no compiled extension. Where the packages are installed, they
are still replaced, so that the figures of one machine are those of another.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch_geometric.utils import scatter as pyg_scatter


def scatter(
    src: Tensor,
    index: Tensor,
    dim: int = -1,
    out: Tensor | None = None,
    dim_size: int | None = None,
    reduce: str = "sum",
) -> Tensor:
    reduced = pyg_scatter(src, index, dim % src.dim(), dim_size, {"add": "sum"}.get(reduce, reduce))
    return reduced if out is None else out.add_(reduced)


def segment_coo(
    src: Tensor, index: Tensor, out: Tensor | None = None, dim_size: int | None = None, reduce: str = "sum"
) -> Tensor:
    return scatter(src, index, 0, out, dim_size, reduce)


def segment_csr(src: Tensor, indptr: Tensor, out: Tensor | None = None, reduce: str = "sum") -> Tensor:
    n = indptr.diff()
    return scatter(src, torch.repeat_interleave(torch.arange(len(n), device=n.device), n), 0, out, len(n), reduce)


class SparseTensor:
    """Entries sorted by row, then column, several in one place allowed; rows can be gathered."""

    def __init__(self, row: Tensor, col: Tensor, value: Tensor, sparse_sizes: tuple[int, int]) -> None:
        order = torch.argsort(row * sparse_sizes[1] + col, stable=True)
        self._set(row[order], col[order], value[order], sparse_sizes)

    def _set(self, row: Tensor, col: Tensor, value: Tensor, sizes: tuple[int, int]) -> None:
        self._row, self._col, self._value, self._sizes = row, col, value, sizes

    def __getitem__(self, rows: Tensor) -> SparseTensor:
        n = torch.bincount(self._row, minlength=self._sizes[0])
        first, taken = n.cumsum(0) - n, n[rows]
        row = torch.repeat_interleave(torch.arange(len(rows)), taken)
        place = first[rows][row] + torch.arange(len(row)) - (taken.cumsum(0) - taken)[row]
        out = object.__new__(SparseTensor)
        out._set(row, self._col[place], self._value[place], (len(rows), self._sizes[1]))
        return out

    @property
    def storage(self) -> SparseTensor:
        return self

    def row(self) -> Tensor:
        return self._row

    def value(self) -> Tensor:
        return self._value

    def coo(self) -> tuple[Tensor, Tensor, Tensor]:
        return self._row, self._col, self._value

    def sparse_sizes(self) -> tuple[int, int]:
        return self._sizes

    def set_value_(self, value: Tensor, **_: Any) -> SparseTensor:
        self._value = value
        return self


def install() -> None:
    """Before fairchem is imported."""
    torch_scatter, torch_sparse = ModuleType("torch_scatter"), ModuleType("torch_sparse")
    for function in (scatter, segment_coo, segment_csr):
        setattr(torch_scatter, function.__name__, function)
    torch_sparse.SparseTensor = SparseTensor  # type: ignore[attr-defined]
    sys.modules |= {"torch_scatter": torch_scatter, "torch_sparse": torch_sparse}
