"""Imported run: a run folder for a model that another program trained. It can be used like any other run.

An imported run has a configuration, a run.json and one checkpoint, but no metrics and no packed dataset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from matscale.core.files import make_folder, replacing_folder
from matscale.core.hosting.host import host
from matscale.core.model.architecture import ArchitectureConfig, DatasetInfo, count_parameters
from matscale.core.model.potential import Potential
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.version import __version__


def save(
    path: str | Path,
    architecture: str,
    config: ArchitectureConfig,
    info: DatasetInfo,
    potential: Potential,
    source: Mapping[str, Any],
    step: int = 0,
) -> Run:
    """Write a run folder with the weights, references and scales of `potential`.

    The folder appears only when it is complete. `source` describes the origin of the model and is stored as `imported`
    in run.json. Raises ConfigError if `path` exists.
    """
    path = Path(path)
    Run.check_free(path, resumable=False)
    chosen = {"name": architecture, "config": config.plain()}
    distribution, version = host().origin(architecture)
    make_folder(path.parent)
    with replacing_folder(path) as folder:
        run = Run.create(folder, TrainConfig.parse({"architecture": chosen}))
        run.update(
            {
                "name": path.name,
                "architecture": {"name": architecture, "distribution": distribution, "version": version},
                "parameters": count_parameters(potential.model),
                "dataset_info": info.plain(),
                "scales": dict(zip(("energy", "forces", "stress"), potential.scales.tolist())),
                "claims": sorted(host().architecture(architecture).claims_of(config)),
                "versions": {"matscale": __version__, "torch": torch.__version__},
                "steps": step,
                "imported": dict(source),
            }
        )
        run.seal()
        state = {"run": run.kept({"status": "completed"})}
        checkpoint.save(run.checkpoint_folder, checkpoint.Checkpoint(step, potential.state_dict(), None, {}, state))
        run.update({"status": "completed", "ended": time.strftime("%Y-%m-%dT%H:%M:%S%z")})
    return Run(path, run.config, run.info)
