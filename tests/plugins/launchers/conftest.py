"""Studies that are really trained, and one that was left alone, to compare with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matscale.core.data.store.packed import PackedDataset
from studies import study_file, swept_here, trained

LENGTH: dict[str, Any] = {
    "budget": {"steps": 300},
    "params": ["2k"],
    "local": {"workers": 2, "threads": 1},
    "set": {
        "batch": {"structures": 4},
        "compute": {"device": "cpu", "threads": 1},
        "evaluation": {"every": 150},
        "checkpoint": {"every": 50},
        "log_every": 10,
    },
}
"""Two runs of a second or two: long enough to be hit in the midst."""


@pytest.fixture
def study(tmp_path: Path, alloys: PackedDataset) -> Callable[..., Path]:
    """study(**values): the file of a study of two runs."""
    return lambda **values: study_file(tmp_path, alloys.path, **{**LENGTH, **values})


@pytest.fixture(scope="session")
def unbroken(tmp_path_factory: pytest.TempPathFactory, alloys: PackedDataset) -> dict[str, tuple[Any, ...]]:
    """What the runs of `study()` compute when nobody disturbs them."""
    folder = tmp_path_factory.mktemp("unbroken")
    swept_here(study_file(folder, alloys.path, **LENGTH))
    return trained(folder / "study")
