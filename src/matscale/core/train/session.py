"""`train`: make or reopen a run folder, prepare, train, and leave a record of how it ended."""

from __future__ import annotations

import platform
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from matscale.core.errors import ConfigError, DataError, MatscaleError, StoppedEarly
from matscale.core.files import DiskError, make_folder, remove, sweep_up, write_text
from matscale.core.flops import Cost, Peak, Probes, cost_of, peak_of, probes_of
from matscale.core.hosting.host import host
from matscale.core.hosting.observers import Observers
from matscale.core.locks import FolderLock
from matscale.core.model.architecture import Architecture, count_parameters
from matscale.core.model.potential import Potential
from matscale.core.progress import Progress
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig, differences
from matscale.core.runs.files import CONFIG, MOVABLE, RESUMABLE
from matscale.core.runs.record import Kept, Run
from matscale.core.runs.restorable import check_state
from matscale.core.train import extension
from matscale.core.train.branch import Branch
from matscale.core.train.compute import configured, describe, device_of
from matscale.core.train.distributed import World
from matscale.core.train.setup import Setup, prepare, resolved
from matscale.core.train.start import Source, prepare_model
from matscale.core.train.stop import Interrupted, StopRequest
from matscale.core.train.trainer import Trainer
from matscale.version import __version__


def train(
    config: TrainConfig,
    path: str | Path,
    *,
    resume: bool = False,
    architecture: Architecture | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train one model into the folder `path` and return its record.

    `architecture` is looked up by its name if it is not given. With `resume`, a run that is in `path` goes on from its
    last sound checkpoint; its configuration must be `config`, up to what `RESUMABLE` lists. A run that is complete is
    returned as it is. Raises ConfigError if there is a run in `path` and `resume` is not given, StoppedEarly if it was
    asked to stop, NonFiniteLossError; see `matscale.core.errors` for the rest.
    """
    architecture = architecture or host().architecture(config.architecture.name)
    config = resolved(config, architecture)
    world = World.from_environment()
    observers = (
        host().observers(config.plugins, architecture, config.trackers) if world.is_main else host().observers(())
    )
    device = device_of(config.compute, world)
    progress = (progress if world.is_main else None) or Progress()
    try:
        with StopRequest(waits=False) as stop, configured(config.compute, device), ExitStack() as stack:
            stack.enter_context(world.connected(device, config.compute.timeout))
            if world.is_main:
                run = stack.enter_context(_claimed(Path(path), config, resume, world))
            world.barrier()
            run = run if world.is_main else Run.open(path)
            if run.info["status"] == "completed":
                return run
            stack.enter_context(_recorded(run, world, progress))
            _session(run, architecture, device, world, observers, progress, stop)
    except Interrupted as signal:
        raise StoppedEarly(
            f"Stopped by {signal} before the first step. Start again with: matscale train --resume -o {path}"
        ) from None
    return run


@contextmanager
def _claimed(path: Path, config: TrainConfig, resume: bool, world: World) -> Iterator[Run]:
    """The run folder, made or reopened, with no other process in it."""
    if resume:
        Run.open(path)
    else:
        Run.check_free(path)
        make_folder(path)
    with FolderLock(path):
        sweep_up(path, alone=True)
        sweep_up(path / "checkpoints", alone=True)
        run = reopened(path, config) if resume else Run.create(path, config)
        before = run.info.get("world_size", world.size)
        if before != world.size and run.info["status"] != "completed":
            raise ConfigError(
                f"{path}: the run was begun by {before} processes and would go on with {world.size}: another global "
                f"batch, in another order. Resume it with torchrun --nproc-per-node {before}."
            )
        yield run


def reopened(path: str | Path, config: TrainConfig) -> Run:
    """The run in `path`, to go on with `config`. Raises ConfigError if that would change what is computed."""
    run = Run.open(path)
    kept = Kept.latest(run.checkpoint_folder)
    changed = differences(run.config.plain(), config.plain())
    since = {} if kept is None else differences(kept.config.plain(), config.plain())
    fixed = {k: v for k, v in changed.items() if not (_is_in(k, (*RESUMABLE, "budget", "data.path")) or _same(k, v))}
    fixed |= {k: v for k, v in since.items() if not _is_in(k, (*RESUMABLE, *MOVABLE))}
    if kept is None and run.checkpoints():  # of an older matscale: how far its schedule had come is not known
        fixed |= {k: v for k, v in changed.items() if not _is_in(k, RESUMABLE)}
    if fixed:
        listed = "; ".join(f"{key} is {was!r}, given {now!r}" for key, (was, now) in fixed.items())
        raise ConfigError(
            f"{path}: a run keeps its configuration when it is resumed ({listed}). Leave these options out (or undo "
            f"the edit of {CONFIG}), or start another run with -o. What may change: {', '.join(RESUMABLE)}; where the "
            "data lie; and the budget, where the schedule permits."
        )
    budget = {k for k in {**changed, **since} if _is_in(k, ("budget",)) and not _is_in(k, RESUMABLE)}
    if budget:
        extension.check(run, config)
    if changed or not (run.path / CONFIG).exists():
        run.save_config(config)
    if budget and run.info["status"] == "completed":
        run.update({"status": "stopped"})
    return run


def _same(key: str, paths: tuple[Any, Any]) -> bool:
    """Whether a run to begin with is the same folder under another name."""
    return key == "start.run" and None not in paths and Path(paths[0]).resolve() == Path(paths[1]).resolve()


def _is_in(key: str, sections: tuple[str, ...]) -> bool:
    return any(key == section or key.startswith(section + ".") for section in sections)


@contextmanager
def _recorded(run: Run, world: World, progress: Progress) -> Iterator[None]:
    """A context that records in run.json how the session ended."""
    if world.is_main:
        run.update({"status": "running", "error": None})
    status, error = "failed", None
    try:
        yield
        status = "completed"
    except (StoppedEarly, Interrupted):
        status = "stopped"
        raise
    except BaseException as exception:
        error = f"{type(exception).__name__}: {exception}"
        raise
    finally:
        if world.is_main:
            with _unless_failed(error):
                run.update({"status": status, "error": error, "ended": _now()})
        progress.ended(run, status)


@contextmanager
def _unless_failed(error: object) -> Iterator[None]:
    """Where a session has ended with an error, one of the disk in writing that down does not take its place."""
    try:
        yield
    except DiskError:
        if error is None:
            raise


def _session(
    run: Run,
    architecture: Architecture,
    device: torch.device,
    world: World,
    observers: Observers,
    progress: Progress,
    stop: StopRequest,
) -> None:
    config = run.config
    setup = prepare(config, architecture, progress)
    branch, source = Branch.of(config), Source.of(config.start)
    setup = source.continued(setup) if source else setup
    goal = setup.goal()
    potential = (source.begin(setup, progress.said) if source else setup.potential()).to(device)
    saved = _latest(run, progress)
    if not saved and run.checkpoints():
        progress.said(f"{run.path}: none of its checkpoints is sound. The run begins anew.")
    if not saved and not branch:
        prepare_model(potential, setup, device)
    if source and saved:
        setup = source.resumed(setup, saved.model["references"])
    elif source:
        setup = source.corrected(setup, potential, device, world, progress.said)
    cost = cost_of_setup(setup, potential, device)
    for complaint in cost.complaints(setup.architecture.name):
        progress.said(complaint)
    peak = _peak(device, config.compute.precision, world)
    trainer = Trainer(setup, potential, cost, peak, goal, run, device, world, observers, progress)
    if saved or "dataset" in run.info:
        _check_same_data(run, setup)
    if branch:
        branch.check(setup)
    if world.is_main:
        # Rows after the checkpoint will be written again, so that the file equals that of an unbroken run.
        rows = run.cut(saved.state["rows"] if saved else {})
        write_text(run.path / "references.json", setup.references.to_json() + "\n")
        run.seal()
        run.update({**_facts(setup, potential, cost, peak, device, world), **rows})
        if source:
            run.update({"start": source.facts(potential)})
        if branch:
            run.update(branch.facts())
    if saved:
        trainer.restore(saved)
        if world.is_main:
            trainer.settle()
    elif branch:
        trainer.restore(branch.saved)
    world.barrier()
    if world.is_main and saved:
        _forget_after(run, saved.step)
    progress.started(run, {**run.info, "resumed_from": saved.step if saved else None, "budget": trainer.budget})
    observers.run_started(run=run)
    status = "failed"
    try:
        stop.begin()
        trainer.fit(stop)
        status = "completed"
    except torch.OutOfMemoryError as error:
        raise MatscaleError(
            f"The device ran out of memory after step {trainer.position.step} ({error}). Let a batch hold less, and "
            "make up for it: --set batch.atoms=... with --set batch.accumulate=...; a limit of atoms or edges bounds "
            "memory better than one of structures. Or keep less of it: --set compute.checkpoint_activations=true."
        ) from error
    except StoppedEarly:
        status = "stopped"
        raise
    finally:
        if world.is_main:
            with _unless_failed(sys.exception()):
                run.update(trainer.totals())
        observers.run_ended(run=run, status=status)


def _latest(run: Run, progress: Progress) -> checkpoint.Checkpoint | None:
    """The newest sound checkpoint that the run can go on from with its budget."""
    passed = list[int]()

    def usable(saved: checkpoint.Checkpoint) -> bool:
        folder = checkpoint.folder_of(run.checkpoint_folder, saved.step)
        check_state(saved, folder)
        kept = Kept.of(folder)
        if kept is None or extension.continues(kept, run.config):
            return True
        passed.append(saved.step)
        return False

    saved = checkpoint.load_latest(run.checkpoint_folder, usable)
    if passed and not saved:
        raise extension.refusal(run, run.config)
    if saved and passed:
        progress.said(
            f"The cooldown of the shorter run began after step {saved.step}: the run goes on from there, and steps up "
            f"to {passed[0]} are done anew."
        )
    return saved


def _forget_after(run: Run, step: int) -> None:
    """Delete checkpoints of later steps: damaged ones, and those of a cooldown that an extended run does not have."""
    for later in run.checkpoints():
        if later > step:
            remove(checkpoint.folder_of(run.checkpoint_folder, later))
    if checkpoint.pointer(run.checkpoint_folder, "last") != step:
        write_text(run.checkpoint_folder / "last", f"{step}\n")


def _check_same_data(run: Run, setup: Setup) -> None:
    """Refuse to continue a run on a changed dataset. Raises DataError."""
    was = run.info.get("dataset", {}).get("hash")
    if was != setup.dataset.hash:
        raise DataError(
            f"{setup.dataset.path}: has changed since the run {run.path} began (its hash was {str(was)[:12]}, is "
            f"{setup.dataset.hash[:12]}). Put the old dataset back, or start another run with -o."
        )


def cost_of_setup(setup: Setup, potential: Potential, device: torch.device) -> Cost:
    """Cost of the batches of a run. It is the same on all processes, since all count the same structures."""
    probes = probes_of_setup(setup, device)
    if setup.pretext is not None:  # a formula is one of the whole model, of which pre-training runs a part, and a head
        return cost_of(potential, probes)
    return cost_of(potential, probes, lambda s: host().step_flops(setup.architecture, setup.model_config, s))


def probes_of_setup(setup: Setup, device: torch.device) -> Probes:
    """Probes: structures of the training part on which cost is counted."""
    return probes_of(setup.dataset, setup.train, setup.graph, setup.dtype, device)


def _peak(device: torch.device, precision: str, world: World) -> Peak:
    """Peak FLOP/s of the devices of all processes together."""
    own = peak_of(device, precision)
    return Peak(world.sums({"peak": own.flops_per_s}, device)["peak"], own.by)


def _facts(
    setup: Setup, potential: Potential, cost: Cost, peak: Peak, device: torch.device, world: World
) -> dict[str, Any]:
    """Facts for run.json that are known before the first step."""
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
        "global_batch": {k: v * world.size * config.batch.accumulate for k, v in _batch_limits(config).items()},
        "flops_counted_by": cost.counted_by,
        "flops_deviation": cost.error,
        "flops_elementwise_share": cost.elementwise_share,
        "flops_opaque": list(cost.opaque),
        "peak_flops_per_s": peak.flops_per_s,
        "mfu_peak_by": peak.by,
        "versions": {"matscale": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "host": platform.node(),
        "started": _now(),
    }


def _batch_limits(config: TrainConfig) -> dict[str, int]:
    return {k: v for k, v in config.batch.plain().items() if k != "accumulate"}


def _origin(architecture: Architecture) -> tuple[str | None, str | None]:
    """(distribution, version) of the plugin; (None, None) for an architecture that is not the registered one."""
    try:
        found = host().architecture(architecture.name)
        return host().origin(architecture.name) if found is architecture else (None, None)
    except ConfigError:
        return None, None


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
