"""Fixtures that several parts share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from little import Site

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """An empty folder like `site-packages`, on the path, to install little plugins into."""
    folder = tmp_path / "site"
    monkeypatch.syspath_prepend(str(folder))
    yield Site(folder)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference material that lies beside the checkout: first-principles data, golden outputs of other programs."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` beside the checkout: comparisons with outside material are left out")
    return SHARED
