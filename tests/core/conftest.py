"""The tiny dataset, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny import make_dataset


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("tiny") / "data").path
