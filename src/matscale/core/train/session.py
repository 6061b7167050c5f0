"""Train a model: create or reopen a run folder, prepare the data, train, and record the outcome."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from matscale.core.errors import ConfigError, StoppedEarly
from matscale.core.files import make_folder, sweep_up
from matscale.core.flops import Cost, Peak, Probes, cost_of, peak_of, probes_of
from matscale.core.hosting.host import host
from matscale.core.hosting.observers import Observers
from matscale.core.locks import FolderLock
from matscale.core.model.architecture import Architecture, count_parameters
from matscale.core.model.potential import Potential
from matscale.core.progress import Reporter
from matscale.core.runs.config import TrainConfig, flat
from matscale.core.runs.record import Run
from matscale.core.train.compute import configured, describe, device_of
from matscale.core.train.learner import Learner
from matscale.core.train.memory import OutOfMemory, is_out_of_memory
from matscale.core.train.origin.origin import Origin
from matscale.core.train.origin.resume import reopened
from matscale.core.train.processes.world import World
from matscale.core.train.recorder import Recorder, now
from matscale.core.train.setup import Setup, prepare, resolved
from matscale.core.train.stop import Interrupted, StopRequest
from matscale.core.train.trainer import Trainer
from matscale.version import __version__


def train(
    config: TrainConfig,
    path: str | Path,
    *,
    resume: bool = False,
    architecture: Architecture | None = None,
    progress: Reporter | None = None,
) -> Run:
    """Train one model into the folder `path` and return its record.

    `architecture` is looked up by its name if it is not given. With `resume`, a run in `path` goes on from its last
    sound checkpoint; only the keys in `RESUMABLE` may differ from its configuration. A completed run is returned
    unchanged. Raises ConfigError if `path` holds a run and `resume` is not given, StoppedEarly after a request to stop,
    and NonFiniteLossError for a loss that is not finite. For other errors see `matscale.core.errors`.
    """
    architecture = architecture or host().architecture(config.architecture.name)
    config = resolved(config, architecture)
    world = World.from_environment()
    observers, progress = _audience(config, architecture, world, progress)
    device = device_of(config.compute, world)
    world.check_backend(device)
    try:
        with StopRequest(waits=False) as stop, configured(config.compute, device), ExitStack() as stack:
            stack.enter_context(world.connected(device, config.compute.timeout))
            _check_alike(config, path, resume, world)
            run = stack.enter_context(_opened(Path(path), config, resume, world))
            if run.info["status"] == "completed":
                return run
            recorder = Recorder(run, world, observers, progress)
            stack.enter_context(recorder.session())
            _session(architecture, device, recorder, stop)
    except Interrupted as signal:
        raise StoppedEarly(
            f"Stopped by {signal} before the first step. Start again with: matscale train --resume -o {path}"
        ) from signal
    return run


def _audience(
    config: TrainConfig, architecture: Architecture, world: World, progress: Reporter | None
) -> tuple[Observers, Reporter]:
    """Observers and progress display of this process; on all processes except the main one they do nothing."""
    if not world.is_main:
        return host().observers(()), Reporter()
    return host().observers(config.plugins, architecture, config.trackers), progress or Reporter()


def _check_alike(config: TrainConfig, path: str | Path, resume: bool, world: World) -> None:
    """Check that all processes train the same run, and that each gets work.

    Raises ConfigError, on every process, if they do not.
    """
    own = {"compute.device": None, "compute.threads": None}  # may differ between processes
    asked = {"folder": str(path), "--resume": resume, "matscale": __version__}
    world.check_same("settings", {**flat(config.plain()), **own, **asked})
    structures = config.batch.structures
    if structures is not None and structures * config.batch.accumulate < world.size:
        raise ConfigError(
            f"batch.structures = {structures} and batch.accumulate = {config.batch.accumulate}: a step has at most "
            f"{structures * config.batch.accumulate} structures, too few for {world.size} processes. Use fewer "
            "processes, or larger batches (--batch)."
        )


@contextmanager
def _opened(path: Path, config: TrainConfig, resume: bool, world: World) -> Iterator[Run]:
    """Open the run folder on every process, after the main process has created or reopened it."""
    with _claimed(path, config, resume) if world.is_main else nullcontext() as claimed:
        world.barrier()
        yield claimed or Run.open(path)


@contextmanager
def _claimed(path: Path, config: TrainConfig, resume: bool) -> Iterator[Run]:
    """Create or reopen the run folder, and lock it against other processes."""
    if resume:
        Run.open(path)
    else:
        Run.check_free(path)
        make_folder(path)
    with FolderLock(path):
        sweep_up(path, alone=True)
        sweep_up(path / "checkpoints", alone=True)
        run = reopened(path, config) if resume else Run.create(path, config)
        before, now = run.info.get("global_batch"), _global_batch(config)
        if before not in (None, now) and run.info["status"] != "completed":
            raise ConfigError(
                f"{path}: a step of this run had {_told(before)}, on {run.info.get('world_size')} processes with an "
                f"older matscale; now it would have {_told(now)}. Start another run with -o, with a larger "
                "batch.accumulate."
            )
        yield run


def _session(architecture: Architecture, device: torch.device, recorder: Recorder, stop: StopRequest) -> None:
    """Prepare a run, start or resume it, and train."""
    run, world, progress = recorder.run, recorder.world, recorder.progress
    setup = prepare(run.config, architecture, progress)
    if world.size > 1:
        world.check_same("data", setup.identity())
    origin = Origin.of(run)
    setup = origin.continued(setup)
    objective = setup.objective()
    potential = origin.potential(setup, progress.said).to(device)
    origin = origin.resumed(progress.said)
    if world.size > 1:  # a shared file system may show a checkpoint to one of them later, or damaged
        world.check_same("checkpoints", {"step to resume from": origin.saved.step if origin.saved else None})
    setup = origin.settled(setup, potential, device, world, progress.said)
    cost = cost_of_setup(setup, potential, device)
    for complaint in cost.complaints(architecture.name):
        progress.said(complaint)
    peak = _peak(device, run.config.compute.precision, world)
    learner = Learner(potential, run.config, objective, device, world)
    trainer = Trainer(setup, learner, cost, peak, recorder)
    origin.check_data(setup)
    facts = {**_facts(setup, potential, cost, peak, device, world), **origin.facts(potential)}
    recorder.begin(setup.references, facts, origin.rows)
    _take_up(trainer, origin)
    resumed_from = origin.saved.step if origin.saved else None
    progress.started(run, {**run.info, "resumed_from": resumed_from, "budget": trainer.budget})
    with recorder.training(trainer.totals):
        stop.begin()
        _fit(trainer, stop)


def _take_up(trainer: Trainer, origin: Origin) -> None:
    """Restore the trainer's state from its origin, and delete the checkpoints of later steps."""
    if origin.checkpoint:
        trainer.restore(origin.checkpoint)
    if origin.saved:
        trainer.recorder.settle(trainer.state.step, trainer.state.best_step, trainer.kept_for_good)
    trainer.world.barrier()
    if origin.saved:
        trainer.recorder.forget_after(origin.saved.step)


def _fit(trainer: Trainer, stop: StopRequest) -> None:
    try:
        trainer.fit(stop)
    except OutOfMemory as error:
        raise OutOfMemory(f"Step {trainer.state.step + 1}: {error}") from error
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        structures = trainer.config.evaluation.structures
        raise OutOfMemory(
            f"The device ran out of memory after step {trainer.state.step}, outside of the batches of training "
            f"({error}). Start a new run with smaller batches of validation: --set evaluation.structures="
            f"{max(1, structures // 2)}; or save memory: --set compute.checkpoint_activations=true."
        ) from error


def cost_of_setup(setup: Setup, potential: Potential, device: torch.device) -> Cost:
    """Count the FLOPs of batches of a run. All processes use the same structures and get the same result."""
    probes = probes_of_setup(setup, device)
    if setup.pretext is not None:  # a FLOP formula counts the whole model; pre-training runs only a part, and a head
        return cost_of(potential, probes)
    return cost_of(potential, probes, lambda s: host().step_flops(setup.architecture, setup.model_config, s))


def probes_of_setup(setup: Setup, device: torch.device) -> Probes:
    """Structures of the training part with which FLOPs are counted."""
    return probes_of(setup.dataset, setup.train, setup.graph, setup.dtype, device)


def _peak(device: torch.device, precision: str, world: World) -> Peak:
    """Peak FLOP/s of the devices of all processes together."""
    own = peak_of(device, precision)
    return Peak(world.sums({"peak": own.flops_per_s})["peak"], own.by)


def _facts(
    setup: Setup, potential: Potential, cost: Cost, peak: Peak, device: torch.device, world: World
) -> dict[str, Any]:
    """Facts about the run that are known before the first step, for run.json."""
    config = setup.config
    distribution, version = _origin(setup.architecture)
    return {
        "architecture": {"name": setup.architecture.name, "distribution": distribution, "version": version},
        "parameters": count_parameters(potential.model),
        "dataset": setup.dataset_facts(),
        "dataset_info": setup.info.plain(),
        "scales": {"energy": setup.scales.energy, "forces": setup.scales.forces, "stress": setup.scales.stress},
        "claims": sorted(setup.architecture.claims_of(setup.model_config)),
        "seed": config.seed,
        **({} if config.pretrain is None else {"pretrain": config.pretrain.task}),
        "labels": dict(config.labels),
        "device": describe(device),
        "precision": config.compute.precision,
        "world_size": world.size,
        "global_batch": _global_batch(config),
        "flops_counted_by": cost.counted_by,
        "flops_deviation": cost.error,
        "flops_elementwise_share": cost.elementwise_share,
        "flops_opaque": list(cost.opaque),
        "peak_flops_per_s": peak.flops_per_s,
        "mfu_peak_by": peak.by,
        "versions": {"matscale": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "host": platform.node(),
        "started": now(),
    }


def _global_batch(config: TrainConfig) -> dict[str, int]:
    """Limits on all batches of a step together."""
    limits = {k: v for k, v in config.batch.plain().items() if k != "accumulate"}
    return {name: limit * config.batch.accumulate for name, limit in limits.items()}


def _told(limits: Mapping[str, int]) -> str:
    return " or ".join(f"up to {limit} {name}" for name, limit in limits.items())


def _origin(architecture: Architecture) -> tuple[str | None, str | None]:
    """Distribution and version of the architecture's plugin; (None, None) for one that no plugin has registered."""
    try:
        found = host().architecture(architecture.name)
        return host().origin(architecture.name) if found is architecture else (None, None)
    except ConfigError:
        return None, None
