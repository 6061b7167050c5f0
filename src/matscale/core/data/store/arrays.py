"""Named flat arrays in one file, written piece by piece and read by memory mapping, in the safetensors layout.

The layout (8 bytes of header length, a JSON header, the arrays one after another) is that of
https://github.com/huggingface/safetensors, so that any safetensors library opens a file. This module writes files
itself because the pieces of a file need not be in memory at the same time. It maps files itself because batches are
gathered from NumPy views. Arrays with the widest items come first, so that each array is aligned to its item size.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import operator
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matscale.core.files import replacing

Arrays = Mapping[str, NDArray[Any]]

_TYPES = {
    "<i8": "I64", "<f8": "F64", "<f4": "F32", "<i4": "I32", "<u4": "U32", "<i2": "I16", "<u2": "U16", "|i1": "I8",
    "|u1": "U8",
}  # fmt: skip
_DTYPES = {name: np.dtype(code) for code, name in _TYPES.items()}
_MAX_HEADER = 1 << 20


def n_bytes(arrays: Arrays) -> int:
    """Total size of the arrays on disk [bytes]."""
    return sum(a.nbytes for a in arrays.values())


def write_arrays(path: Path, columns: Mapping[str, Sequence[NDArray[Any]]]) -> str:
    """Write arrays to one file, each joined from its pieces in order. Returns the SHA-256 of the file.

    `columns` has the pieces of each array, by name. An array has the common dtype of its pieces. The file appears under
    its name only when it is complete and on the disk. Pieces may be mapped files: they are copied one by one, so that
    memory does not grow with the size of the file.
    """
    dtypes = {name: np.result_type(*(piece.dtype for piece in pieces)) for name, pieces in columns.items()}
    names = sorted(columns, key=lambda name: (-dtypes[name].itemsize, name))
    header, start = {}, 0
    for name in names:
        shape = [sum(len(piece) for piece in columns[name]), *columns[name][0].shape[1:]]
        end = start + dtypes[name].itemsize * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": _TYPES[dtypes[name].str], "shape": shape, "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with replacing(path) as file:
        for block in _blocks(text, columns, names, dtypes):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def _blocks(
    header: bytes, columns: Mapping[str, Sequence[NDArray[Any]]], names: list[str], dtypes: Mapping[str, np.dtype[Any]]
) -> Iterator[bytes | memoryview]:
    yield len(header).to_bytes(8, "little")
    yield header
    for name in names:
        for piece in columns[name]:
            yield np.ascontiguousarray(piece, dtype=dtypes[name]).reshape(-1).view(np.uint8).data


def map_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Map the arrays of a file as read-only views. Only the header is read.

    Raises OSError or ValueError for a file that cannot be mapped.
    """
    with open(path, "rb") as file:
        buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    size = int.from_bytes(buffer[:8], "little")
    if not 0 < size <= min(_MAX_HEADER, len(buffer) - 8):
        raise ValueError(f"it states a header of {size} bytes, in a file of {len(buffer)} bytes")
    try:
        header = json.loads(buffer[8 : 8 + size])
        return {name: _view(buffer, 8 + size, entry) for name, entry in header.items() if name != "__metadata__"}
    except (KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"its header cannot be read ({error})") from None


def _view(buffer: mmap.mmap, offset: int, entry: dict[str, Any]) -> NDArray[Any]:
    start, end = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], tuple(map(operator.index, entry["shape"]))
    count = math.prod(shape)  # with Python's integers, which do not overflow
    if min(shape, default=0) < 0 or end - start != count * dtype.itemsize or start < 0 or offset + end > len(buffer):
        raise ValueError(f"array at bytes {start} to {end} does not fit the file of {len(buffer)} bytes")
    return np.frombuffer(buffer, dtype, count, offset + start).reshape(shape)
