"""Environment variables that slow training down, change its numbers or stop it, each with its reason.

Does not import torch, so that `matscale doctor` can use the list where torch is broken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from matscale.core.threads import usable_cores


@dataclass(frozen=True)
class Variable:
    """Environment variable with a condition on its value under which it is dangerous."""

    names: tuple[str, ...]
    is_dangerous: Callable[[str], bool]
    reason: str
    """Effect of the value, as a sentence."""
    cure: str
    mark: Literal["warn", "fail"] = "warn"


def _is_set(value: str) -> bool:
    return bool(value.strip())


def _is_on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "no", "off")


def _is_off(value: str) -> bool:
    return value.strip().lower() in ("0", "false", "no", "off")


def _is_no_count(value: str) -> bool:
    first = value.split(",")[0].strip()
    return _is_set(value) and not (first.isdecimal() and int(first) > 0)


def _is_too_many(value: str) -> bool:
    first = value.split(",")[0].strip()
    return first.isdecimal() and int(first) > usable_cores()


def _is_no_rank(value: str) -> bool:
    return not value.isdecimal()


def _is_no_folder(value: str) -> bool:
    return _is_set(value) and not Path(value).expanduser().is_dir()


COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
RANKS = ("WORLD_SIZE", "RANK", "LOCAL_RANK")

DANGEROUS = (
    # Numbers
    Variable(
        ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
        _is_on,
        "All float32 products on the GPU are rounded to tf32, also with compute.precision = fp32, and also for "
        "geometry.",
        "Unset it; choose tf32 with --precision tf32.",
    ),
    Variable(
        ("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE"),
        lambda value: value.strip().upper() not in ("", "STRICT"),
        "Float32 products on the CPU are rounded to a lower precision, also for geometry.",
        "Unset it; choose a precision with --precision.",
    ),
    Variable(
        ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"),
        _is_set,
        "Vector instructions of the CPU are not used: steps are slower, and the last digits differ.",
        "Unset it.",
    ),
    Variable(
        ("PYTHONOPTIMIZE",),
        _is_on,
        "Python leaves out the checks that are written as assertions, in torch and in plugins.",
        "Unset it.",
    ),
    # Speed
    Variable(
        COUNTS,
        _is_too_many,
        "There are more threads than cores, so threads wait for one another.",
        "Unset it, or set it to the number of cores at most.",
    ),
    Variable(
        COUNTS,
        _is_no_count,
        "The value is not a number of threads, so the libraries choose a number themselves.",
        "Unset it, or set it to a number of cores.",
    ),
    Variable(
        ("OMP_WAIT_POLICY",),
        lambda value: value.strip().upper() == "ACTIVE",
        "Threads use their core while they wait, and take it from other processes.",
        "Unset it: matscale sets PASSIVE.",
    ),
    Variable(
        ("KMP_BLOCKTIME",),
        lambda value: value.strip().lower() == "infinite",
        "Threads use their core while they wait, and take it from other processes.",
        "Unset it.",
    ),
    Variable(
        ("OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY", "OMP_PLACES"),
        lambda value: value.strip().lower() not in ("", "0", "false", "none", "disabled"),
        "Threads are bound to cores: several processes may be bound to the same ones.",
        "Unset it; bind processes with taskset, numactl or the options of srun.",
    ),
    Variable(
        ("CUDA_LAUNCH_BLOCKING", "HIP_LAUNCH_BLOCKING", "AMD_SERIALIZE_KERNEL"),
        _is_on,
        "The CPU waits for every kernel of the GPU: several times slower.",
        "Unset it; it is meant for debugging.",
    ),
    Variable(
        ("PYTORCH_NO_CUDA_MEMORY_CACHING",),
        _is_set,
        "Each tensor on the GPU requests memory from the driver: several times slower.",
        "Unset it; it is meant for debugging.",
    ),
    Variable(
        ("TORCH_COMPILE_DISABLE", "TORCHDYNAMO_DISABLE"),
        _is_on,
        "torch.compile has no effect, so that compute.compile = true changes nothing.",
        "Unset it.",
    ),
    Variable(
        ("GLIBC_TUNABLES", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_"),
        _is_set,
        "It replaces matscale's own setting of the heap: steps on a CPU may be slower.",
        "Unset it, unless you have measured that it helps.",
    ),
    Variable(
        ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE", "NCCL_IB_DISABLE"),
        _is_on,
        "GPUs exchange gradients over a slower path.",
        "Unset it, unless the faster path hangs on this machine.",
    ),
    # What is found, and what waits
    Variable(
        ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
        lambda value: value.strip() in ("", "-1", "NoDevFiles"),
        "All GPUs are hidden: training uses the CPU.",
        "Unset it, if this machine has a GPU.",
    ),
    Variable(
        ("LD_PRELOAD", "PYTHONHOME", "PYTHONPATH"),
        _is_set,
        "Libraries or modules from these folders replace the installed ones.",
        "Unset it, if you do not need it.",
    ),
    Variable(
        ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "NCCL_ASYNC_ERROR_HANDLING"),
        _is_off,
        "If one process dies, the others wait without end, instead of for compute.timeout seconds.",
        "Unset it.",
    ),
    Variable(
        RANKS,
        _is_no_rank,
        "The value is not a whole number, so a run cannot find its place among several processes.",
        "Unset it; torchrun and `matscale train --devices` set it.",
        "fail",
    ),
    Variable(
        ("WORLD_SIZE",),
        lambda value: value.isdecimal() and int(value) > 1,
        "A run waits for the other processes of a launcher.",
        "Unset it, unless torchrun starts the training.",
    ),
    Variable(
        ("MATSCALE_LAUNCH",),
        _is_no_folder,
        "It is left from a `matscale train --devices` that has ended; a new training would look for its folder.",
        "Unset it.",
        "fail",
    ),
    Variable(
        ("TMPDIR",),
        _is_no_folder,
        "The folder for temporary files does not exist.",
        "Make it, or unset the variable.",
    ),
    Variable(
        ("MATSCALE_NO_PLUGINS",),
        _is_on,
        "Only the built-in plugins are used.",
        "Unset it, if a plugin is missing.",
    ),
)
"""Dangerous environment variables: names, condition, reason, cure."""


def dangers(environment: Mapping[str, str] | None = None) -> Iterator[tuple[str, str, Variable]]:
    """Yield (name, value, entry of the list) of each variable that is set to a dangerous value.

    >>> [(name, value) for name, value, _ in dangers({"CUDA_LAUNCH_BLOCKING": "1", "OMP_PROC_BIND": "false"})]
    [('CUDA_LAUNCH_BLOCKING', '1')]
    """
    environment = os.environ if environment is None else environment
    for variable in DANGEROUS:
        for name in variable.names:
            if name in environment and variable.is_dangerous(environment[name]):
                yield name, environment[name], variable
