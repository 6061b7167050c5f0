"""Regions of full precision inside a computation in half."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from matscale.core.errors import ConfigError
from matscale.core.precision import full_precision, outside_autocast, refuse_half

HALVES = [torch.bfloat16, torch.float16]


@full_precision
def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """a @ b"""
    return a @ b


@pytest.mark.parametrize("half", HALVES)
def test_a_function_in_full_precision_is_exact_where_autocast_rounds(half: torch.dtype) -> None:
    a, b = torch.rand(3, 4), torch.rand(4, 5)
    with torch.autocast("cpu", half):
        assert (a @ b).dtype == half
        assert_close(product(a, b).double(), a.double() @ b.double(), rtol=1e-6, atol=0)
        assert (a @ b).dtype == half  # autocast is back afterwards


@pytest.mark.parametrize("half", HALVES)
def test_half_precision_arguments_are_widened_by_place_and_by_name(half: torch.dtype) -> None:
    a, b = torch.rand(3, 4), torch.rand(4, 5).to(half)
    with torch.autocast("cpu", half):
        for found in (product(a, b), product(a, b=b)):
            assert found.dtype == torch.float32
            assert torch.equal(found, product(a, b.float()))


def test_without_autocast_nothing_is_widened() -> None:
    half = torch.rand(3, 4).bfloat16()
    assert product(half, half.T).dtype == torch.bfloat16
    assert product(half.double(), half.T.double()).dtype == torch.float64


def test_a_region_outside_autocast_ends_with_its_block() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        with outside_autocast():
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")


def test_the_decorated_keeps_its_name_and_docstring() -> None:
    assert (product.__name__, product.__doc__) == ("product", "a @ b")


@pytest.mark.parametrize("half", HALVES)
def test_a_model_that_cannot_compute_in_half_precision_says_what_to_set(half: torch.dtype) -> None:
    refuse_half("rigid")
    with (
        torch.autocast("cpu", half),
        pytest.raises(ConfigError, match=r"rigid does not.*Set compute\.precision to fp32"),
    ):
        refuse_half("rigid")
