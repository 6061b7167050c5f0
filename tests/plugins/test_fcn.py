"""The per-atom network."""

from __future__ import annotations

import pytest
import torch

from matscale.core.model.architecture import DatasetInfo, count_parameters
from matscale.plugins.fcn import SIZES, build

COUNTS = [9_434, 38_298, 181_278, 655_050, 1_325_706, 5_338_250, 13_024_650]


@pytest.mark.parametrize(("name", "n_params"), list(zip(SIZES, COUNTS)))
def test_published_shapes_have_the_recomputed_parameter_counts(name: str, n_params: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build(SIZES[name], DatasetInfo.any()))["non_embedding"] == n_params
