"""Convert the content of a fairchem checkpoint to a Potential, and to a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from matscale.core.errors import ConfigError, DataError, PluginError
from matscale.core.fairchem.checkpoint import FairchemCheckpoint, read
from matscale.core.fairchem.importer import Importer
from matscale.core.fairchem.scales import normalisers, references
from matscale.core.fairchem.size import check_size
from matscale.core.fairchem.weights import Choice, Kind, chosen
from matscale.core.files import sha256_of
from matscale.core.hosting.host import host
from matscale.core.inference.imported import save
from matscale.core.model.architecture import ArchitectureConfig, DatasetInfo
from matscale.core.model.potential import Potential
from matscale.core.runs.record import Run


@dataclass(frozen=True)
class Imported:
    """Imported fairchem model."""

    architecture: str
    config: ArchitectureConfig
    info: DatasetInfo
    potential: Potential
    weights: Kind
    notes: list[str]
    """Notes on the import for the user, a sentence each."""


def importer_of(checkpoint: FairchemCheckpoint) -> Importer:
    """Find the importer for the file's model.

    Raises ConfigError that lists the known models if there is none, PluginError if there are two.
    """
    model, importers = checkpoint.model, host().importers()
    found = [importer for importer in importers if model.name in importer.models]
    if len(found) > 1:
        names = " and ".join(importer.name for importer in found)
        raise PluginError(
            f"{checkpoint.path}: {names} both import {model.name!r}. Block one with MATSCALE_BLOCK_PLUGINS."
        )
    if not found:
        known = ", ".join(sorted({name for importer in importers for name in importer.models}))
        what = "model" if model.heads is None else "backbone"
        raise ConfigError(f"{checkpoint.path}: its {what} is {model.name!r}, and only these are imported: {known}.")
    return found[0]


def translate(checkpoint: FairchemCheckpoint, choice: Choice = "auto") -> Imported:
    """Make a Potential that predicts the same as fairchem's model. `auto` takes averaged weights if there are any.

    Raises ConfigError for a model or an option that is not imported and for a `choice` of weights that is not in the
    file, DataError for unknown content.
    """
    importer = importer_of(checkpoint)
    checkpoint = importer.normal(checkpoint)
    config = configuration(checkpoint, importer)
    architecture = host().architecture(importer.name)
    row, elements = references(checkpoint, importer.max_atomic_number(config))
    info = importer.info(config, elements)
    n_numbers = sum(weight.numel() for weight in checkpoint.weights.values())
    check_size(checkpoint.path, config, lambda: architecture.build(config, info), n_numbers)
    model = architecture.model(config, info, seed=0)
    names = [*checkpoint.weights, *(checkpoint.averaged or ())]
    roles = importer.roles(model, names)
    weights, which = chosen(checkpoint, roles, choice)
    for name, weight in weights.items():
        if roles[name] != "derived" and not weight.isfinite().all():
            raise DataError(f"{checkpoint.path}: {name} has NaN or infinite values.")
    try:
        importer.load(model, weights)
    except DataError as error:
        raise DataError(f"{checkpoint.path}: {error}") from None
    derive = architecture.derives_forces(config)
    scales, parts = normalisers(checkpoint, derived=derive)
    if importer.stress_parts is not None:
        importer.stress_parts(model, parts)
    graph = architecture.graph(config)
    potential = Potential(model, derive=derive, elements=elements, references=row, scales=scales, graph=graph)
    return Imported(importer.name, config, info, potential, which, importer.notes(checkpoint))


def configuration(checkpoint: FairchemCheckpoint, importer: Importer) -> ArchitectureConfig:
    """Configuration of the file's model in matscale. Raises ConfigError that names the file and the wrong option."""
    try:
        return importer.config(checkpoint)
    except ConfigError as error:
        at = f"{checkpoint.path}: "
        raise ConfigError(at + str(error).removeprefix(at)) from None


def import_run(path: str | Path, target: str | Path, choice: Choice = "auto") -> tuple[Run, Imported]:
    """Import the checkpoint at `path` as the run `target`.

    Raises the errors of `read`, `translate` and `Run.create`.
    """
    Run.check_free(Path(target), resumable=False)
    found = read(path)
    imported = translate(found, choice)
    step = found.values.get("step")
    cmd = found.section("config", "cmd")
    source = {
        "format": str(found.values.get("format", "fairchem v1")),
        "file": found.path.name,
        "sha256": sha256_of(found.path),
        "weights": imported.weights,
        **{key: str(cmd[key]) for key in ("identifier", "version", "commit", "timestamp_id") if cmd.get(key)},
        **({"notes": imported.notes} if imported.notes else {}),
    }
    run = save(
        target,
        imported.architecture,
        imported.config,
        imported.info,
        imported.potential,
        source,
        step if isinstance(step, int) and step > 0 else 0,
    )
    return run, imported
