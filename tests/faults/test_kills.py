"""Kills at points of all writing: a sample of what `benchmarks/kill.py` does in full."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

import kills

SAMPLED = {
    "train": 5,
    "pack": 6,
    "make": 1,
    "edges": 5,
    "sweep": 2,
    "predict": 5,
    "export": 3,
    "import": 5,
    "report": 4,
}
"""Victim -> kills, half of them amid the bytes of a write."""


@pytest.fixture(scope="module")
def victims(tmp_path_factory: pytest.TempPathFactory) -> dict[str, kills.Victim]:
    return kills.shelved(tmp_path_factory.getbasetemp() / "victims")


@pytest.mark.parametrize("name", SAMPLED)
def test_what_is_killed_amid_its_writing_is_whole_or_absent_and_the_next_start_completes_it(
    name: str, victims: dict[str, kills.Victim], tmp_path: Path
) -> None:
    victim, chance = victims[name], random.Random(name)
    points = kills.points(victim, tmp_path / "whole")
    amid = [k for k, point in enumerate(points) if point == "amid write"]
    half = min(SAMPLED[name] // 2, len(amid))
    chosen = [*chance.sample(amid, half), *chance.sample(range(len(points)), SAMPLED[name] - half)]
    whole = victim.contents(tmp_path / "whole")
    for number, point in enumerate(chosen):
        kills.kill_at(victim, tmp_path / f"kill-{number}", point + 1, whole)
