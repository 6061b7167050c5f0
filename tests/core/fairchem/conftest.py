"""Golden models of fairchem as checkpoints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fairchem_files import Theirs


@pytest.fixture(scope="session")
def golden(shared: Path) -> Callable[[str], Theirs]:
    """golden("gemnet-dt")"""
    return lambda kind: Theirs.golden(shared, kind)
