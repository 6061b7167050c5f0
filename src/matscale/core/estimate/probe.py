"""Largest batch that fits in memory, for `--batch auto`: probed once, on the largest structures for training."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

from matscale.core.errors import ConfigError
from matscale.core.estimate.live_bytes import activation_bytes, resident_bytes
from matscale.core.estimate.memory_need import MemoryNeed
from matscale.core.model.architecture import Architecture
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.config import TrainConfig
from matscale.core.train.compute import autocast, configured, device_of
from matscale.core.train.learner import Learner
from matscale.core.train.memory import is_out_of_memory
from matscale.core.train.processes.environment import tasks
from matscale.core.train.processes.world import World
from matscale.core.train.setup import Setup, prepare, resolved

SHARE = 0.9
"""Share of the memory that a batch may fill; the rest is for fragments and other programs."""


def with_fitting_batch(
    config: TrainConfig, architecture: Architecture, n_processes: int = 1, progress: Reporter = SILENT
) -> TrainConfig:
    """Set `batch.structures` to the largest number of the largest structures that fits in the memory of one device.

    On a CPU, `n_processes` share the memory that is available. Raises ConfigError if not even one structure fits, and
    for tasks of srun or torchrun, which might find different numbers.
    """
    if (started := tasks())[0] > 1:
        raise ConfigError(
            f"--batch auto probes in one process, and {started[1]} has started {started[0]}. Find the number with "
            "--dry-run on one of the devices, and give it to all."
        )
    config = resolved(config, architecture)
    device = device_of(config.compute, World())
    with configured(config.compute, device):
        setup = prepare(config, architecture, progress)
        progress.stage("Probing the memory")
        fits = _fits_on_gpu(setup, device) if device.type == "cuda" else _fits_on_cpu(setup, available() // n_processes)
        found = largest(fits, len(setup.train))
    if not found:
        raise ConfigError(
            "--batch auto: a step with the largest structure alone needs more memory than there is. Choose a smaller "
            "model (--params), save memory (--set compute.checkpoint_activations=true), or leave large structures out."
        )
    progress.said(f"Batches of {found} structures: as many of the largest as fit in memory.")
    return config.model_copy(update={"batch": config.batch.model_copy(update={"structures": found})})


def largest(fits: Callable[[int], bool], most: int) -> int:
    """Largest n up to `most` for which `fits` holds, by doubling and bisection; 0 if there is none.

    >>> asked = []
    >>> largest(lambda n: asked.append(n) or n <= 11, 100), asked
    (11, [1, 2, 4, 8, 16, 12, 10, 11])
    """
    good, bad = 0, None
    while bad is None and good < most:
        n = min(max(1, 2 * good), most)
        good, bad = (n, None) if fits(n) else (good, n)
    while bad is not None and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good


def available() -> int:
    """Memory that processes may still take from the system [bytes], within the limit of a container."""
    found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    with suppress(OSError, ValueError):  # `max`: no limit
        group = Path("/sys/fs/cgroup")
        left = int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
        found = min(found, max(left, 0))
    return found


def _fits_on_cpu(setup: Setup, bytes_available: float) -> Callable[[int], bool]:
    """Whether a step fits, by the bytes of its tensors: a system that is out of memory would kill this process.

    A step that is expected not to fit, by the one before it, is not tried.
    """
    potential, loader, per_structure = setup.potential(), setup.training_loader(), 0.0
    limit = SHARE * bytes_available + resident_bytes()

    def needed(activations: float) -> float:
        return resident_bytes() + MemoryNeed.of(potential, setup.config.optimizer, activations).at_once(on_cpu=True)

    def fits(n: int) -> bool:
        nonlocal per_structure
        if needed(per_structure * n) > limit:
            return False
        batch = loader.of_rows(0, loader.largest(n))
        activations = activation_bytes(potential, batch, lambda: autocast(setup.config.compute, torch.device("cpu")))
        per_structure = activations / n
        return needed(activations) <= limit

    return fits


def _fits_on_gpu(setup: Setup, device: torch.device) -> Callable[[int], bool]:
    """Whether a step fits, by making it."""
    loader = setup.training_loader()
    learner = Learner(setup.potential(), setup.config, setup.objective(), device, World())
    limit = SHARE * torch.cuda.get_device_properties(device).total_memory

    def fits(n: int) -> bool:
        batch = loader.of_rows(0, loader.largest(n)).to(device)
        torch.cuda.reset_peak_memory_stats(device)
        try:
            gradient = learner.gradient([batch], learner.objective.counts(batch))
            learner.update(gradient, 0.0, 1)  # which makes the moments of the optimizer
            return torch.cuda.max_memory_reserved(device) <= limit
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return False
        finally:
            learner.leave_out()
            del batch
            gc.collect()
            torch.cuda.empty_cache()

    return fits
