"""Load the model of a run, as a Potential or as an ASE calculator.

Nothing in a run folder is executed: the architecture is looked up by name among the installed plugins, and weights are
numbers in safetensors files whose digests are checked.
"""

from __future__ import annotations

from pathlib import Path

import torch

from matscale.core.errors import ConfigError
from matscale.core.inference.calculator import PotentialCalculator
from matscale.core.model.potential import Potential
from matscale.core.runs.config import ComputeConfig
from matscale.core.runs.record import Run
from matscale.core.runs.trained_potential import restored
from matscale.core.train.compute import device_of
from matscale.core.train.processes.world import World

DTYPES = {"float32": torch.float32, "float64": torch.float64}


def load(
    run: Run | Path | str,
    checkpoint: str | int = "best",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    zero_net_force: bool = False,
    averaged: bool | None = None,
) -> Potential:
    """Load the trained Potential of a run, in evaluation mode.

    `checkpoint` is `best` (the lowest validation loss; the last one if there was no validation yet), `last`, or a step.
    The weights are the moving average if the run kept one; with `averaged` False, they are those of the step itself,
    and with `averaged` True, a run without an average is refused. `device` is `cpu`, `cuda`, `cuda:1`, ... or `auto`.
    `dtype` is float32 or float64; the default is that of the stored weights. With `zero_net_force`, the mean force of
    each structure is subtracted; runs with `net_force = "removed"` always do so. `graph` of the Potential is the rule
    for the edges of its batches: `potential(matscale.batch(structures, potential))` gives its outputs.

    Raises ConfigError for a folder without a run, a run that was only pre-trained, a checkpoint or a device that does
    not exist, and a config.toml that describes another model than the checkpoint. Raises PluginError that says what to
    install if the run's architecture is not installed, NonFinitePrediction for weights that are not finite, and
    MatscaleError for a damaged checkpoint.

    >>> potential = load("runs/first")
    >>> potential.graph.key, potential.training
    ('radius-6', False)
    """
    run = run if isinstance(run, Run) else Run.open(run)
    if run.config.pretrain is not None:
        raise ConfigError(
            f"{run.path}: was pre-trained ({run.config.pretrain.task}) and has learned no energies, forces or stress. "
            f"Fine-tune it first: matscale train --from {run.path} --data ..."
        )
    potential = restored(run, checkpoint, averaged)
    potential.zero_net_force |= zero_net_force
    if dtype is not None:
        # References and scales stay float64: only the model computes in `dtype`.
        potential.model.to(dtype_of(dtype))
    place = device_of(ComputeConfig(device=str(device)), World.of_inference())
    return potential.to(place).eval().requires_grad_(False)


def calculator(
    run: Run | Path | str,
    checkpoint: str | int = "best",
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    zero_net_force: bool = False,
) -> PotentialCalculator:
    """Make an ASE calculator with the trained Potential of a run. Arguments and errors are those of `load`.

    >>> from ase.build import bulk
    >>> atoms = bulk("Cu", cubic=True)
    >>> atoms.calc = calculator("runs/first")
    >>> atoms.get_forces().shape, atoms.get_stress().shape
    ((4, 3), (6,))
    """
    return PotentialCalculator(load(run, checkpoint, device=device, dtype=dtype, zero_net_force=zero_net_force))


def dtype_of(dtype: torch.dtype | str) -> torch.dtype:
    """Return torch.float32 or torch.float64, given by name or as a dtype. Raises ConfigError for others.

    >>> dtype_of("float64")
    torch.float64
    """
    for name, known in DTYPES.items():
        if dtype in (name, known):
            return known
    raise ConfigError(f"dtype = {dtype!r}: must be one of {', '.join(DTYPES)}.")
