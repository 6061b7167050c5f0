"""Tests of the figure of places that repeat each other: logic counts, declarations do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from shape import pairs

FUNCTION = """
def mean(values, weights):
    total = 0.0
    for value, weight in zip(values, weights):
        total = total + value * weight
    result = total / sum(weights)
    print(result, total, weights)
    return result
"""
CALL = """
found = [
    Family(
        name="a",
        build=build,
        sizes=module.SIZES,
        n_most=118,
        summary="text",
        dial=DIAL,
        graph=graph,
        config=Config,
    )
]
"""
FIELDS = """
class Settings:
    n_layers: int = 3
    width: int = 128
    cutoff: float = 6.0
    is_direct: bool = True
    kind: Literal["a", "b"] = "a"
    rules: tuple[str, ...] = field(
        default_factory=tuple
    )
    n_heads: int = 8
"""
WITH_A_ROW = FUNCTION.replace("0.0", "zero(\n        like=values,\n    )")


def counted(folder: Path, *texts: str) -> tuple[int, int]:
    """Pairs in files with these texts: the same, and of the same shape."""
    files = [folder / f"{number}.py" for number in range(len(texts))]
    for file, text in zip(files, texts):
        file.write_text(text, encoding="utf-8")
    return pairs(files, of_shape=False), pairs(files, of_shape=True)


@pytest.mark.parametrize("text", [FUNCTION, WITH_A_ROW])
def test_a_repeated_function_is_a_pair(tmp_path: Path, text: str) -> None:
    assert counted(tmp_path, text, "import math\n" + text) == (1, 1)


def test_a_repeated_function_with_other_names_is_a_pair_of_the_same_shape(tmp_path: Path) -> None:
    renamed = FUNCTION.replace("value", "x").replace("weight", "w").replace("total", "s")
    assert counted(tmp_path, FUNCTION, renamed) == (0, 1)


@pytest.mark.parametrize("text", [CALL, FIELDS])
def test_repeated_declarations_are_no_pair(tmp_path: Path, text: str) -> None:
    assert counted(tmp_path, text, text) == (0, 0)


def test_lines_with_different_declarations_between_them_are_no_pair(tmp_path: Path) -> None:
    assert counted(tmp_path, WITH_A_ROW, WITH_A_ROW.replace("like=values,", "like=values,\n        at=0,")) == (0, 0)
