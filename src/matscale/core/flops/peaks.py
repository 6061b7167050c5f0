"""Peak FLOP/s of a device, from the vendor's data sheet or from a matrix product timed on it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import torch

from matscale.core.errors import ConfigError, did_you_mean

# Dense FLOP/s, without sparsity, by precision of the products. fp32 of NVIDIA: CUDA cores; tf32, bf16, fp16: tensor
# cores with fp32 accumulation; fp64 of A100, H100, H200: tensor cores. Names as torch.cuda.get_device_name gives them,
# the more special before the more general. Sources:
# V100-PCIE, V100 (SXM2): NVIDIA V100 datasheet (2020). A100: its datasheet (2022). A10, A40, L4, L40S, T4: NVIDIA's.
# H100 (SXM), NVL, PCIe, H200 (SXM), NVL, B200: NVIDIA's datasheets (2023 to 2025), figures with sparsity halved.
# RTX 3090: GA102 whitepaper. RTX 4090: Ada whitepaper. MI250X, MI300X: AMD datasheets (matrix cores); of a MI250X,
# torch sees each of the two dies as a device: half of what the sheet says.
_TABLE: dict[str, dict[str, float]] = {
    "V100-PCIE": {"fp16": 112e12, "fp32": 14e12, "fp64": 7e12},
    "V100": {"fp16": 125e12, "fp32": 15.7e12, "fp64": 7.8e12},
    "T4": {"fp16": 65e12, "fp32": 8.1e12},
    "A100": {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12, "fp64": 19.5e12},
    "A40": {"bf16": 149.7e12, "fp16": 149.7e12, "tf32": 74.8e12, "fp32": 37.4e12},
    "A10": {"bf16": 125e12, "fp16": 125e12, "tf32": 62.5e12, "fp32": 31.2e12},
    "L40S": {"bf16": 362e12, "fp16": 362e12, "tf32": 183e12, "fp32": 91.6e12},
    "L4": {"bf16": 121e12, "fp16": 121e12, "tf32": 60e12, "fp32": 30.3e12},
    "RTX 3090": {"bf16": 71e12, "fp16": 71e12, "tf32": 35.6e12, "fp32": 35.6e12},
    "RTX 4090": {"bf16": 165.2e12, "fp16": 165.2e12, "tf32": 82.6e12, "fp32": 82.6e12},
    "H100 PCIe": {"bf16": 756e12, "fp16": 756e12, "tf32": 378e12, "fp32": 51e12, "fp64": 51e12},
    "H100 NVL": {"bf16": 835e12, "fp16": 835e12, "tf32": 417e12, "fp32": 60e12, "fp64": 60e12},
    "H100": {"bf16": 989e12, "fp16": 989e12, "tf32": 494.7e12, "fp32": 67e12, "fp64": 67e12},
    "H200 NVL": {"bf16": 835e12, "fp16": 835e12, "tf32": 417e12, "fp32": 60e12, "fp64": 60e12},
    "H200": {"bf16": 989e12, "fp16": 989e12, "tf32": 494.7e12, "fp32": 67e12, "fp64": 67e12},
    "B200": {"bf16": 2250e12, "fp16": 2250e12, "tf32": 1125e12},
    "MI250X": {"bf16": 191.5e12, "fp16": 191.5e12, "fp32": 47.9e12, "fp64": 47.9e12},
    "MI300X": {"bf16": 1307.4e12, "fp16": 1307.4e12, "tf32": 653.7e12, "fp32": 163.4e12, "fp64": 163.4e12},
}


@dataclass(frozen=True)
class Peak:
    """Peak FLOP/s of a device."""

    flops_per_s: float
    by: Literal["table", "measured"]
    """Source of the number: `table` (the vendor's data sheet) or `measured` (timed on this machine)."""


def named_peak(name: str, precision: str) -> float:
    """Peak FLOP/s of a device by its name in the table, such as `A100` or `NVIDIA H100 PCIe`.

    Raises ConfigError for a device that is not in the table, and for a precision whose peak is not in the table.

    >>> f"{named_peak('A100', 'bf16'):.3g}"
    '3.12e+14'
    """
    key = _key(name)
    if key is None:
        raise ConfigError(f"There is no known peak of a device {name!r}. {did_you_mean(name, _TABLE)}")
    if precision not in _TABLE[key]:
        known = ", ".join(_TABLE[key])
        raise ConfigError(f"{key} has no stated peak in {precision}. Choose with --precision among {known}.")
    return _TABLE[key][precision]


def _key(name: str) -> str | None:
    """Entry of the table for a name given by a user or by the driver."""
    given = f" {_plain(name)} "
    return next((key for key in _TABLE if f" {_plain(key)} " in given), None)


def is_same_device(name: str, recorded: str) -> bool:
    """Whether `name`, given by a user (`H100`, `cpu`), means the device of a run (`cuda:0 (NVIDIA H100 80GB HBM3)`).

    `H100` does not mean `H100 PCIe`: if both names are in the table, their entries are compared.

    >>> is_same_device("H100", "cuda:0 (NVIDIA H100 80GB HBM3)"), is_same_device("A100", "cpu (2 threads)")
    (True, False)
    """
    words = _plain(recorded).replace("(", " ").replace(")", " ")
    key, other = _key(name), _key(words)
    return key == other if key or other else f" {_plain(name)} " in f" {words} "


def _plain(name: str) -> str:
    return name.lower().replace("-", " ")


def peak_of(device: torch.device, precision: str) -> Peak:
    """Peak of a device from the table, or from timed matrix products.

    Products are timed for a CPU, and for a device or a precision that is not in the table.
    """
    key = _key(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    known = _TABLE[key].get(precision) if key else None
    return Peak(known, "table") if known else Peak(measured_peak(device, precision), "measured")


def measured_peak(device: torch.device, precision: str, size: int | None = None, seconds: float = 0.05) -> float:
    """Measure the peak FLOP/s with square matrix products, for about `seconds`, with the present number of threads."""
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp64": torch.float64}.get(precision, torch.float32)
    n = size or (8192 if device.type == "cuda" else 512)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.no_grad():
        a = torch.randn(n, n, device=device).to(dtype)
        best, until = float("inf"), time.perf_counter() + seconds
        for k in range(10_000):
            began = time.perf_counter()
            a @ a
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            now = time.perf_counter()
            if k:  # the first one sets up libraries
                best = min(best, now - began)
            if k >= 8 and now > until:  # on a busy machine most of them are interrupted, so the fastest counts
                break
    return 2.0 * n**3 / best
