"""The model of many devices: limits that can be computed by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import scaling_out

FAST = {"step": 1.0, "backward": 0.6, "bandwidth": 1e10, "latency": 0.0, "imbalance": 1.0, "sharding": False}


def test_one_device_needs_the_measured_time_and_a_hidden_sum_only_its_last_bucket() -> None:
    assert scaling_out.step_seconds(1, n_bytes=1e9, **FAST) == 1.0
    n_bytes = 4 * scaling_out.BUCKET
    assert scaling_out.step_seconds(2, n_bytes=n_bytes, **FAST) == pytest.approx(1 + n_bytes / 4 / 1e10)


def test_a_slow_network_adds_what_the_backward_pass_does_not_hide() -> None:
    seconds = scaling_out.step_seconds(512, n_bytes=1e10, **FAST)
    assert seconds == pytest.approx(1 + 2 * 511 / 512 - 0.6)
    divided = scaling_out.step_seconds(512, n_bytes=1e10, **{**FAST, "sharding": True})
    assert divided == pytest.approx(1 + 2 * 511 / 512)


def test_the_order_of_a_small_dataset_is_random_and_its_steps_read_all_shards() -> None:
    assert "noise of a random order 0.0312" in scaling_out.quality(10_000, window=1024)
    assert scaling_out.reads(scaling_out.np.arange(0, 1000, 10), 1000, 4).startswith("4 of 4 (a random draw: 4.0)")
