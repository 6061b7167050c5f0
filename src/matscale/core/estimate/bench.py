"""Speed, memory and numerical error of a model on a device, for every path and precision in which it can be trained.

A path is the form of the computation: `readable` (the reference form, see `matscale.core.model.reference_path`), `fast`
(the form that training uses) or `compiled` (torch.compile). All combinations have the same weights and the same batch.
Errors of the loss, the forces and the gradient are relative to those of the readable path in float64. Steps are timed
as in `matscale estimate`, except that every step has the same batch, which is already on the device.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import ConfigError
from matscale.core.estimate.estimate import without_cache
from matscale.core.estimate.live_bytes import activation_bytes
from matscale.core.estimate.memory_need import MemoryNeed
from matscale.core.estimate.timing import LEAST_SECONDS, MOST, WARM_UP, seconds_of, timed_steps
from matscale.core.files import finite
from matscale.core.flops import Cost, Peak, peak_of
from matscale.core.locks import FolderLock
from matscale.core.model.architecture import Architecture, DatasetInfo, count_parameters
from matscale.core.model.potential import Potential
from matscale.core.model.reference_path import reference_path
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import Run
from matscale.core.runs.trained_potential import architecture_of, restored
from matscale.core.train.compute import autocast, configured, describe, device_of, memory_bytes
from matscale.core.train.learner import Learner
from matscale.core.train.optimizer.accumulation import StepBatches
from matscale.core.train.origin.source import prepare_model
from matscale.core.train.processes.world import World
from matscale.core.train.recorder import now
from matscale.core.train.session import cost_of_setup
from matscale.core.train.setup import Setup, prepare, resolved
from matscale.version import __version__

Path = Literal["readable", "fast", "compiled"]
PATHS: tuple[Path, ...] = ("readable", "fast", "compiled")
PRECISIONS = ("fp64", "fp32", "tf32", "bf16", "fp16")
TIME_STEPS = 8
LEDGER = "precision_ledger"
"""Key in run.json of the list of measurements of a run."""


@dataclass(frozen=True)
class Row:
    """Measurement of one path in one precision. Values are None if they were not measured; `reason` then says why."""

    path: Path
    precision: str
    step_s: float | None = None
    """Time of a training step [s]: forward, loss, backward, metrics, optimizer, average; the median."""
    prediction_s: float | None = None
    """Time of a prediction of the batch [s]; the median."""
    atoms_per_s: float | None = None
    """Atoms that are trained on per second."""
    predicted_atoms_per_s: float | None = None
    memory_bytes: int | None = None
    """Memory of training: the peak on a GPU; on a CPU, weights, gradients, optimizer and activations together."""
    mfu: float | None = None
    """FLOP/s of the training step as a share of `peak_flops_per_s`."""
    peak_flops_per_s: float | None = None
    peak_by: str | None = None
    loss_error: float | None = None
    """|loss − exact loss| / |exact loss|."""
    forces_error: float | None = None
    """Norm of the difference from the exact forces, relative to their norm; None if no forces are predicted."""
    gradient_error: float | None = None
    """Norm of the difference from the exact gradient of the loss with respect to all weights, relative to its norm."""
    reason: str | None = None


@dataclass(frozen=True)
class Bench:
    """Measurements of one model on one batch and one device."""

    architecture: str
    parameters: dict[str, int]
    structures: int
    atoms: int
    edges: int
    flops_per_step: float
    flops_counted_by: str
    device: str
    exact_on: str
    """Device on which the exact loss, forces and gradient were computed, in float64 by the readable path."""
    versions: dict[str, str]
    time: str
    rows: tuple[Row, ...]

    def plain(self) -> dict[str, Any]:
        """Measurements as JSON-ready values."""
        values: dict[str, Any] = finite({**vars(self), "rows": [vars(row) for row in self.rows]})
        return values


@dataclass(frozen=True)
class _Step:
    """Loss, forces and gradient of one training step, on the CPU in float64."""

    loss: float
    forces: Tensor | None
    gradient: Tensor


def bench(
    config: TrainConfig,
    architecture: Architecture,
    *,
    paths: Sequence[Path] = PATHS,
    precisions: Sequence[str] | None = None,
    time_steps: int = TIME_STEPS,
    exact_on: str | None = None,
    run: Run | None = None,
    progress: Reporter = SILENT,
) -> Bench:
    """Measure the model that `config` describes on the device `compute.device` and the first batch of its training.

    `precisions` are by default those of the device (`precisions_of`). `exact_on` is the device of the float64
    reference; by default the same device. With `run`, the weights are those of its best checkpoint; `config` and
    `architecture` must be those of the run. A combination that the model or the device does not support is a row with a
    reason. Raises ConfigError for an unknown device; see `prepare` for errors of the data.
    """
    config = without_cache(resolved(config, architecture))
    config = _with_compute(config, precision="fp32", compile=False)
    device = device_of(config.compute, World())
    given = None if run is None else restored(run, "best")
    setup = prepare(config, architecture, progress)
    if run is not None:
        setup = replace(setup, info=DatasetInfo.parse(run.info["dataset_info"]))
    with configured(config.compute, device):
        potential = setup.potential().to(device)
        if given is None:
            prepare_model(potential, setup, device)
        else:
            potential.load_state_dict(given.state_dict())
        weights = {name: tensor.cpu() for name, tensor in potential.state_dict().items()}
        batch = setup.training_loader().batch(0, 0)
        progress.stage(f"{architecture.name}: counting FLOPs")
        cost = cost_of_setup(setup, potential, device)
        count = count_parameters(potential.model)
    del potential, given
    place = device if exact_on is None else torch.device(exact_on)
    progress.stage(f"{architecture.name}: float64 on {place}")
    with _learner(setup, weights, place, "readable", "fp64") as learner:
        exact = _one_step(learner, batch)
    rows = []
    for path in PATHS:
        for precision in precisions_of(device) if precisions is None else precisions:
            if path in paths:
                progress.stage(f"{architecture.name}: {path}, {precision}")
                rows.append(_row(setup, weights, batch, device, path, precision, cost, exact, time_steps))
    return Bench(
        architecture=architecture.name,
        parameters=count,
        structures=batch.n_structures,
        atoms=batch.n_atoms,
        edges=batch.n_edges,
        flops_per_step=cost.step(batch.shape),
        flops_counted_by=cost.counted_by,
        device=describe(device),
        exact_on=str(place),
        versions={"matscale": __version__, "torch": torch.__version__, "python": platform.python_version()},
        time=now(),
        rows=tuple(rows),
    )


def bench_run(run: Run, device: str | None = None, **options: Any) -> Bench:
    """Measure the model of a run, with the weights of its best checkpoint and the first batch of its training.

    Raises ConfigError for a run that was only pre-trained, and the errors of `matscale.load`.
    """
    if run.config.pretrain is not None:
        raise ConfigError(
            f"{run.path}: was pre-trained ({run.config.pretrain.task}); there is no loss on labels to measure. Name a "
            "run that was trained on labels."
        )
    config = run.config if device is None else _with_compute(run.config, device=device)
    return bench(config, architecture_of(run), run=run, **options)


def record(run: Run, found: Bench) -> None:
    """Append measurements to the precision ledger in run.json. Raises ConfigError while the run is being trained."""
    with FolderLock(run.path, "is training into this folder", "print the measurements only (without --record)"):
        run = Run.open(run.path)
        run.update({LEDGER: [*(run.info.get(LEDGER) or []), found.plain()]})


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """Precisions to measure on a device: on a CPU all but tf32, which it lacks, and fp16, which is no faster there.

    A GPU has tf32 and bf16 from compute capability 8 (Ampere) on.
    """
    if device.type != "cuda":
        return ("fp64", "fp32", "bf16")
    is_recent = torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (8, 0)
    return PRECISIONS if is_recent else ("fp64", "fp32", "fp16")


def _with_compute(config: TrainConfig, **changes: Any) -> TrainConfig:
    return config.model_copy(update={"compute": config.compute.model_copy(update=changes)})


@contextmanager
def _learner(
    setup: Setup, weights: Mapping[str, Tensor], device: torch.device, path: Path, precision: str
) -> Iterator[Learner]:
    """Context in which a learner computes by `path` in `precision`."""
    config = _with_compute(setup.config, precision=precision, compile=path == "compiled")
    form: AbstractContextManager[object] = reference_path() if path == "readable" else nullcontext()
    with configured(config.compute, device), form:
        setup = replace(setup, config=config)
        potential = setup.potential()
        potential.load_state_dict(weights)
        yield Learner(potential, config, setup.objective(), device, World())


def _group(learner: Learner, batch: AtomicBatch) -> StepBatches:
    """Training step on one batch, converted to the device and the floating-point type of the learner."""
    dtype = next(p.dtype for p in learner.parameters)
    labelled = {name: max(float(n), 1.0) for name, n in learner.objective.counts(batch).items()}
    # The energy of a batch is in float64 whatever its type: at −1000 eV, float32 resolves only 0.1 meV.
    moved = replace(
        batch.to(learner.device, dtype), energy=None if batch.energy is None else batch.energy.to(learner.device)
    )
    return StepBatches([moved], 1, [batch.shape], labelled, 0.0)


def _one_step(learner: Learner, batch: AtomicBatch) -> _Step:
    """Loss, forces and gradient of a training step without dropout; the weights stay as they are."""
    learner.potential.train().model.eval()  # keeps the graph of derived forces, and drops nothing out
    group = _group(learner, batch)
    with torch.random.fork_rng(devices=[learner.device] if learner.device.type == "cuda" else []):
        found = learner.gradient(group.batches, group.labelled)
    gradient = [torch.zeros_like(p) if p.grad is None else p.grad for p in learner.parameters]
    flat = torch.cat([part.flatten().double().cpu() for part in gradient])
    forces = found.seen[0][0].forces
    learner.leave_out()
    learner.potential.train()
    return _Step(found.objective, None if forces is None else forces.double().cpu(), flat)


def _row(
    setup: Setup,
    weights: Mapping[str, Tensor],
    batch: AtomicBatch,
    device: torch.device,
    path: Path,
    precision: str,
    cost: Cost,
    exact: _Step,
    time_steps: int,
) -> Row:
    if path == "compiled" and (reason := _not_compiled(setup)):
        return Row(path, precision, reason=reason)
    try:
        with _learner(setup, weights, device, path, precision) as learner:
            found = _one_step(learner, batch)
            memory = _counted_memory(setup, learner, batch) if device.type == "cpu" and path != "compiled" else None
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(device)
            group = _group(learner, batch)
            most = WARM_UP + MOST * time_steps
            seconds = [spent for _, spent in timed_steps(learner, repeat(group, most), time_steps)][WARM_UP:]
            if device.type == "cuda":
                memory = memory_bytes(device)
            prediction = _prediction_seconds(learner, group.batches[0], time_steps)
            peak = _peak(device, precision)
    except (ConfigError, RuntimeError) as error:  # not supported, out of memory, or no compiler
        return Row(path, precision, reason=_first_line(error))
    step = median(seconds) if seconds else None
    return Row(
        path,
        precision,
        step_s=step,
        prediction_s=prediction,
        atoms_per_s=batch.n_atoms / step if step else None,
        predicted_atoms_per_s=batch.n_atoms / prediction if prediction else None,
        memory_bytes=memory,
        mfu=cost.step(batch.shape) / step / peak.flops_per_s if step else None,
        peak_flops_per_s=peak.flops_per_s,
        peak_by=peak.by,
        loss_error=abs(found.loss - exact.loss) / abs(exact.loss),
        forces_error=_relative(found.forces, exact.forces),
        gradient_error=_relative(found.gradient, exact.gradient),
    )


def _peak(device: torch.device, precision: str) -> Peak:
    """Peak of a device. A measured peak is at least that of float32, since CPUs without bf16 products emulate them."""
    peak = peak_of(device, precision)
    if peak.by == "table" or precision not in ("bf16", "fp16"):
        return peak
    return max(peak, peak_of(device, "fp32"), key=lambda one: one.flops_per_s)


def _not_compiled(setup: Setup) -> str | None:
    if setup.architecture.derives_forces(setup.model_config):
        return "torch.compile has no second derivatives, but forces that are derivatives need them"
    return None if setup.architecture.compiles else "the architecture does not claim to compile"


def _first_line(error: Exception) -> str:
    """First line of an error, with its type if it is not one of matscale."""
    line = next(iter(str(error).splitlines()), "")
    return line if isinstance(error, ConfigError) else f"{type(error).__name__}: {line}"


def _counted_memory(setup: Setup, learner: Learner, batch: AtomicBatch) -> int:
    """Bytes that a training step needs on a CPU, without the process itself."""
    potential: Potential = learner.potential
    half = partial(autocast, learner.config.compute, learner.device)
    activations = activation_bytes(potential, _group(learner, batch).batches[0], half)
    return MemoryNeed.of(potential, setup.config.optimizer, activations).at_once(on_cpu=True)


def _prediction_seconds(learner: Learner, batch: AtomicBatch, steps: int) -> float | None:
    spent = list[float]()
    with learner.evaluating() as predictor:
        for k in range(WARM_UP + MOST * steps):
            if k >= WARM_UP + steps and sum(spent[WARM_UP:]) > LEAST_SECONDS / 2:
                break
            spent.append(seconds_of(lambda: predictor(batch), learner.device))
    return median(spent[WARM_UP:]) if len(spent) > WARM_UP else None


def _relative(found: Tensor | None, exact: Tensor | None) -> float | None:
    if found is None or exact is None:
        return None
    return float((found - exact).norm() / exact.norm())
