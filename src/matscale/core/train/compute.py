"""Device, floating-point precision, threads and peak memory of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from matscale.core.errors import ConfigError
from matscale.core.heap import kept_heap
from matscale.core.runs.config import ComputeConfig
from matscale.core.train.processes.world import World

_AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


def device_of(config: ComputeConfig, world: World) -> torch.device:
    """Choose the device of this process; `auto` chooses a GPU, or the CPU if there is no GPU.

    With several processes, each uses the GPU whose number is its local rank, or the only GPU that it sees (Slurm can
    show each task its own). Raises ConfigError for an unknown device, a GPU that torch does not find, and one GPU
    for several processes.
    """
    if config.device == "auto":
        return torch.device("cuda", _own_gpu(world)) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(config.device)
    except RuntimeError:
        raise ConfigError(
            f"compute.device = {config.device!r}: expected auto, cpu, cuda, or a numbered GPU such as cuda:1."
        ) from None
    number = config.device.partition(":")[2]  # of the text, since torch takes numbers modulo 256
    if device.type == "cuda" and int(number or 0) >= torch.cuda.device_count():
        built = (
            "" if torch.version.cuda or torch.version.hip else f" (torch {torch.__version__} is built for CPUs only)"
        )
        raise ConfigError(
            f"compute.device = {config.device!r}: torch sees {torch.cuda.device_count()} GPUs here{built}. "
            "Use --device cpu, or install a torch that was built for your GPU."
        )
    if device.type == "cuda" and world.size > 1:
        if device.index is not None and torch.cuda.device_count() > 1:
            raise ConfigError(
                f"compute.device = {config.device!r}: all {world.size} processes would use this GPU. Use "
                "--device cuda, which gives each process its own."
            )
        return torch.device("cuda", _own_gpu(world))
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(
            f"compute.device = {config.device!r}: expected auto, cpu, cuda, or a numbered GPU such as cuda:1."
        )
    return device


def _own_gpu(world: World) -> int:
    n = torch.cuda.device_count()
    if n > 1 and world.local_rank >= n:
        raise ConfigError(
            f"Process {world.local_rank} of this machine (counted from 0) has no GPU: torch sees {n}. Start one "
            "process per GPU, or use --device cpu."
        )
    return 0 if n == 1 else world.local_rank


def describe(device: torch.device) -> str:
    """Describe a device: `cpu (2 threads)`, `cuda:0 (NVIDIA H100)`."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"


def autocast(config: ComputeConfig, device: torch.device) -> AbstractContextManager[object]:
    """Context for a forward pass, with matrix products in half precision if the configuration asks for it."""
    dtype = _AUTOCAST.get(config.precision)
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def scaler_of(config: ComputeConfig, device: torch.device) -> torch.amp.GradScaler:
    """Gradient scaler that keeps small fp16 gradients from vanishing; it does nothing for other precisions."""
    return torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")


@contextmanager
def configured(config: ComputeConfig, device: torch.device) -> Iterator[None]:
    """Context that sets torch's GPU, number of threads and use of TF32 for the run, and restores the last two.

    The state of torch's random generators is restored, too. On a CPU, the process keeps freed memory for reuse within
    the context (`matscale.core.heap`).
    """
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    if config.threads:
        torch.set_num_threads(config.threads)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # otherwise, what names no device would open a context on the first GPU
    torch.set_float32_matmul_precision("high" if config.precision == "tf32" else "highest")
    try:
        heap = kept_heap() if device.type == "cpu" else nullcontext()
        with heap, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def memory_bytes(device: torch.device) -> int:
    """Peak memory so far [bytes]: memory allocated on a GPU, or resident memory of the process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
