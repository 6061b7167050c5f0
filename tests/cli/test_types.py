"""Counts as people write them."""

from __future__ import annotations

import click
import pytest

from matscale.cli.types import ParameterCount


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1M", 1_000_000),
        ("30k", 30_000),
        ("2.5e6", 2_500_000),
        ("1.5B", 1_500_000_000),
        ("2G", 2_000_000_000),
        ("12345", 12_345),
        (".5M", 500_000),
        (" 1M ", 1_000_000),
        (70_000, 70_000),
    ],
)
def test_a_count_is_read_as_people_write_it(text: object, count: int) -> None:
    assert ParameterCount().convert(text, None, None) == count


@pytest.mark.parametrize(
    "text", ["0", "-5", "many", "1m", "1Q", "", "nan", "inf", "1e999", "1e30", "0.2", "1__0_.5.3", "M"]
)
def test_what_is_no_count_is_refused_with_examples(text: str) -> None:
    with pytest.raises(click.BadParameter, match="30k, 1M"):
        ParameterCount().convert(text, None, None)
