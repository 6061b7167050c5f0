"""`benchmarks/leaderboard.py` reads both dialects of Matbench-Discovery's model files, and tables made of them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import leaderboard


@pytest.mark.parametrize(
    ("cost", "hours"),
    [
        ({"entries": [{"hardware": "NVIDIA H100", "count": 32, "hours_per_device": 177.3125}]}, 5674.0),
        ({"Nvidia A100 GPUs": {"amount": 32, "hours": 170}}, 5440.0),
        ("missing", None),
        ({"entries": [{"hardware": "NVIDIA H100", "count": 32, "hours_per_device": "missing"}]}, None),
        (None, None),
    ],
)
def test_device_hours_are_read_in_both_dialects(cost: object, hours: float | None) -> None:
    assert leaderboard.hours_of({"training_cost": cost}) == hours


def test_rows_of_a_table_have_the_hours_of_all_their_devices() -> None:
    row = {"model": "a", "params": "9", "training_sets": "X", "hardware_count_hours": "", "mae_ev_per_atom": "0.02"}
    assert leaderboard.of_row(row)["device_hours"] is None
    both = {**row, "hardware_count_hours": "NVIDIA H100 80GBx16x124.0h; NVIDIA A100x2x3h"}
    assert leaderboard.of_row(both)["device_hours"] == 16 * 124 + 6


def test_the_public_table_has_the_models_that_the_page_tells_of(shared: Path) -> None:
    models = leaderboard.read(shared / "data" / "scaling" / "matbench" / "models.csv")
    assert (len(models), sum(row["device_hours"] is not None for row in models)) == (62, 26)
