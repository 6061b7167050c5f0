"""The peak that MFU refers to: looked up, or measured."""

from __future__ import annotations

import time

import pytest
import torch

from matscale.core.errors import ConfigError
from matscale.core.flops import measured_peak, named_peak, peak_of


@pytest.mark.parametrize(
    ("name", "precision", "peak"),
    [
        ("Tesla T4", "fp16", 65e12),
        ("NVIDIA A100-SXM4-80GB", "bf16", 312e12),
        ("NVIDIA A10", "bf16", 125e12),
        ("NVIDIA H100 80GB HBM3", "bf16", 989e12),
        ("NVIDIA H100 PCIe", "fp32", 51e12),
        ("NVIDIA H100 NVL", "tf32", 417e12),
        ("NVIDIA H200", "fp64", 67e12),
        ("NVIDIA L4", "fp32", 30.3e12),
        ("NVIDIA L40S", "bf16", 362e12),
        ("NVIDIA GeForce RTX 4090", "fp32", 82.6e12),
        ("Tesla V100-SXM2-16GB", "fp16", 125e12),
        ("Tesla V100-PCIE-32GB", "fp16", 112e12),
        ("AMD Instinct MI300X", "fp32", 163.4e12),
        ("h100", "bf16", 989e12),
    ],
)
def test_a_device_is_found_by_the_name_of_its_driver(name: str, precision: str, peak: float) -> None:
    assert named_peak(name, precision) == peak


@pytest.mark.parametrize("name", ["NVIDIA A10G", "NVIDIA GH200 480GB", "NVIDIA H20", "NVIDIA A1000"])
def test_a_similar_name_is_another_device(name: str) -> None:
    with pytest.raises(ConfigError, match="no known peak of a device"):
        named_peak(name, "fp32")


def test_an_unknown_device_is_answered_with_the_nearest_and_a_missing_precision_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'RTX 4090'"):
        named_peak("RTX 4091", "fp32")
    with pytest.raises(ConfigError, match=r"V100 has no stated peak in bf16.*fp16, fp32, fp64"):
        named_peak("V100", "bf16")


def test_a_device_without_data_sheet_is_measured_and_says_so() -> None:
    state = torch.get_rng_state()
    peak = peak_of(torch.device("cpu"), "fp32")
    assert peak.by == "measured"
    assert torch.equal(torch.get_rng_state(), state)
    assert 1e8 < peak.flops_per_s < 1e14


def test_the_measurement_takes_the_time_it_is_given() -> None:
    began = time.perf_counter()
    assert measured_peak(torch.device("cpu"), "fp64", size=64, seconds=0.02) > 0
    assert time.perf_counter() - began >= 0.02
