"""Export runs as checkpoints of fairchem v1: `matscale export fairchem`.

fairchem reads pickles, so this file (and no other of matscale) writes one, with dicts, lists, numbers, texts and
tensors, which torch loads with `weights_only=True`.
"""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import torch

from matscale.core.errors import ConfigError
from matscale.core.fairchem.importer import Importer
from matscale.core.files import make_folder, write_blocks
from matscale.core.hosting.host import host
from matscale.core.inference.load import load
from matscale.core.model.potential import Potential
from matscale.core.runs.record import Run
from matscale.core.runs.trained_potential import resolve_step


def export_run(run: Run, target: str | Path, checkpoint: str | int = "best") -> Potential:
    """Write the model of `run` to `target`, a file of fairchem v1, and return the Potential that was written.

    Raises ConfigError for an architecture that no plugin exports, for options without a counterpart in fairchem and if
    `target` exists; DiskError if it cannot be written; and the errors of `matscale.load`.
    """
    target = Path(target)
    exporter = exporter_of(run)
    if target.exists():
        raise ConfigError(f"{target}: exists already, and is not overwritten. Choose another file with -o.")
    step = resolve_step(run, checkpoint)
    potential = load(run, step)
    assert exporter.export is not None
    try:
        found = exporter.export(potential)
    except ConfigError as error:
        raise ConfigError(f"{run.path}: cannot be exported: {error}") from None
    config = dict(found.get("config", {}))
    config["cmd"] = {**config.get("cmd", {}), "identifier": run.name}
    content = {**found, "config": config, "step": step}
    make_folder(target.parent)
    file = BytesIO()  # torch aborts the process if a write to a file fails
    torch.save(content, file)
    write_blocks(target, [file.getbuffer()])
    return potential


def exporter_of(run: Run) -> Importer:
    """Find the importer of the run's architecture.

    Raises ConfigError if the importer has no `export`; the message lists the architectures that have one.
    """
    name = run.config.architecture.name
    known = {importer.name: importer for importer in host().importers() if importer.export is not None}
    if name not in known:
        raise ConfigError(
            f"{run.path}: its architecture is {name!r}, and only these are exported to fairchem v1: "
            f"{', '.join(sorted(known)) or 'none'}."
        )
    return known[name]
