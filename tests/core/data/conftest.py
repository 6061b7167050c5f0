"""Packed datasets of a few structures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from matscale.core.data.store.packed import PackedDataset, ShardWriter
from matscale.core.data.structure import Structure


@pytest.fixture
def pack_into(tmp_path: Path) -> Callable[..., PackedDataset]:
    def pack(structures: list[Structure], name: str = "dataset", in_memory: bool = False, **options) -> PackedDataset:
        writer = ShardWriter(tmp_path / name, **options)
        writer.append(*structures)
        writer.finish()
        return PackedDataset.open(tmp_path / name, in_memory=in_memory)

    return pack
