"""Training loop, the same for every architecture.

A step is a pure function of the configuration, the step number and the weights, so that a resumed run computes the same
numbers as an uninterrupted one. Sums are divided by the counts of the whole global batch, so that accumulation and
several processes give the gradient of one large batch.
"""

from __future__ import annotations

import json
import math
import time
from typing import Any

from matscale.core.data.batch import AtomicBatch
from matscale.core.errors import ConfigError, NonFiniteLossError, StoppedEarly
from matscale.core.flops import Cost, Peak
from matscale.core.model.outputs import Outputs
from matscale.core.progress import StepStatus
from matscale.core.runs.checkpoint import Checkpoint
from matscale.core.runs.record import validation_loss
from matscale.core.train.compute import memory_bytes
from matscale.core.train.evaluation import tally
from matscale.core.train.learner import Gradient, Learner, named, suspects
from matscale.core.train.optimizer.accumulation import Accumulation, StepBatches, steps_of
from matscale.core.train.optimizer.schedule import Budget, last_stable_step, lr_factor
from matscale.core.train.recorder import Recorder, Samples
from matscale.core.train.running_metrics import RunningMetrics
from matscale.core.train.setup import Setup
from matscale.core.train.state import TrainingState, seed_step
from matscale.core.train.stop import StopRequest


class Trainer:
    """Trainer of a `Learner`'s potential on the data of a `Setup`, in one process of a `World`."""

    def __init__(self, setup: Setup, learner: Learner, cost: Cost, peak: Peak, recorder: Recorder) -> None:
        self.setup, self.config, self.cost, self.peak = setup, setup.config, cost, peak
        self.learner, self.device, self.objective = learner, learner.device, learner.objective
        self.recorder, self.world, self.progress = recorder, recorder.world, recorder.progress
        loader, accumulate = setup.training_loader(), self.config.batch.accumulate
        self.accumulation = Accumulation(loader, accumulate, self.device, self.objective, self.world)
        if self.world.size > 1:
            by = "edges" if loader.is_balanced_by_edges else "atoms"
            self.world.check_same("measures of the work", {"work divided by": by})
        self.samples = Samples(setup, recorder.run, self.world)
        epochs = self.config.budget.epochs
        steps = None if epochs is None else steps_of(loader, accumulate, epochs)
        self.budget = Budget.of(self.config.budget, steps)
        self.kept_for_good = {*self.config.checkpoint.at, *last_stable_step(self.config.schedule, self.budget)}
        self.steps_of_epochs = steps
        self.state = TrainingState()
        self.running_metrics = RunningMetrics(self.objective.metrics(self.device))
        self.began = time.perf_counter()
        self.saved: int | None = None

    # The loop ---------------------------------------------------------------------------------------------------------

    def fit(self, stop: StopRequest) -> None:
        """Train until a limit of the budget is reached, or until `patience` validations bring no better loss.

        Raises StoppedEarly or NonFiniteLossError, both after saving.
        """
        self.began = time.perf_counter() - self.state.wall_s
        self.samples.write_structures()
        groups = self.accumulation.groups(self.state.epoch, self.state.batch)
        while not self._lost_patience():
            group = next(groups)
            self.recorder.writer.conclude(wait=False)
            totals = self._totals(group, stop)
            if totals["stop"]:
                self._save_now()
                raise StoppedEarly(
                    f"Stopped by {stop.reason or 'another process'} after step {self.state.step}, and saved. "
                    f"Go on with: matscale train --resume -o {self.recorder.run.path}"
                )
            if self._is_over(totals):
                break
            began = time.perf_counter()
            self._step(group, totals)
            self._report(group, totals, time.perf_counter() - began + group.waited)
            self._at_boundary()
        self._finish()

    def _totals(self, group: StepBatches, stop: StopRequest) -> dict[str, float]:
        """Totals over all processes for the next step, so that every process makes the same decision on stopping."""
        own = {
            "structures": float(sum(s.n_structures for s in group.shapes)),
            "atoms": float(sum(s.n_atoms for s in group.shapes)),
            "edges": float(sum(s.n_edges for s in group.shapes)),
            "flops": sum(self.cost.step(s) for s in group.shapes),
            "stop": float(stop.asked()),
            "seconds": self.world.of_main(self._elapsed()),
        }
        return self.world.sums({**own, **{f"labelled {k}": v for k, v in group.labelled.items()}})

    def _elapsed(self) -> float:
        return time.perf_counter() - self.began

    def _is_over(self, totals: dict[str, float]) -> bool:
        """Whether a limit of the budget is reached, or the remaining FLOPs do not suffice for another step."""
        p, limit = self.state, self.budget.max_flops
        too_dear = limit is not None and p.flops + totals["flops"] > limit
        if too_dear and p.step == 0:
            raise ConfigError(
                f"budget.max_flops = {limit:g} is too small for one step, which takes {totals['flops']:g} FLOPs. "
                "Raise it, or use smaller batches (--batch) or a smaller model (--params)."
            )
        return too_dear or self.budget.progress(p.step, totals["seconds"], p.flops) >= 1

    def _lost_patience(self) -> bool:
        patience = self.config.evaluation.patience
        lost = patience is not None and self.state.since_best >= patience
        if lost:
            self.progress.said(f"No better validation loss in {patience} validations: the run ends here.")
        return lost

    # A step -----------------------------------------------------------------------------------------------------------

    def _step(self, group: StepBatches, totals: dict[str, float]) -> None:
        p = self.state
        seed_step(self.config.seed, p.step, self.world.rank)
        counts = {name: totals[f"labelled {name}"] for name in group.labelled}
        gradient = self.learner.gradient(group.batches, counts)
        if gradient.is_finite:
            lr = self._learning_rate(totals)
            self.learner.update(gradient, lr, p.step + 1)
            self.running_metrics.learned(gradient, lr)
            p.seen(totals)
        else:
            self._left_out(gradient)
        p.flops += totals["flops"]
        p.advance(group.n_batches, self.accumulation.loader.n_batches(p.epoch))

    def _learning_rate(self, totals: dict[str, float]) -> float:
        schedule = self.config.schedule
        done = self.budget.progress(self.state.step, totals["seconds"], self.state.flops)
        return self.config.optimizer.lr * lr_factor(done, schedule, self.budget.warmup(schedule.warmup))

    def _left_out(self, gradient: Gradient) -> None:
        """Skip a step with non-finite values and report which structures they come from.

        After too many such steps, save the run as it was before the step and raise NonFiniteLossError.
        """
        self.learner.leave_out()
        own = {
            "suspects": [row for outputs, batch in gradient.seen for row in suspects(outputs, batch)],
            "all": [row for _, b in gradient.seen if b.index is not None for row in b.index.tolist()],
        }
        of_processes = [json.loads(text) for text in self.world.gathered(json.dumps(own))]
        rows, everyone = ([row for one in of_processes for row in one[key]] for key in own)
        told = (
            f"Step {self.state.step + 1}: the loss is {gradient.objective:g} and the norm of its gradient "
            f"{gradient.norm:g}; the weights were not updated. Structures "
            f"{'with values that are not finite' if rows else 'in the batch'}: "
            f"{named(self.setup.dataset, rows or everyone)}."
        )
        allowed = self.config.skip_nonfinite
        if self.state.skipped < allowed:
            self.state.skipped += 1
            self.progress.said(f"{told} Skipped ({self.state.skipped} of {allowed} allowed).")
            return
        self._save_now()
        raise NonFiniteLossError(
            f"{told} The run is saved as it was before this step. Look at these structures or lower optimizer.lr; to "
            f"skip one more step: matscale train --resume -o {self.recorder.run.path} --set "
            f"skip_nonfinite={allowed + 1}"
        )

    def _report(self, group: StepBatches, totals: dict[str, float], seconds: float) -> None:
        p = self.state
        self.running_metrics.spent(seconds, group.waited, totals["atoms"], totals["flops"])
        done = min(self.budget.progress(p.step, self._elapsed(), p.flops), 1.0)
        n_batches = self.accumulation.loader.n_batches(p.epoch)
        n_atoms = int(totals["atoms"])
        self.progress.stepped(StepStatus(p.step, p.epoch, p.batch, n_batches, done, n_atoms, seconds, group.waited))

    # Between steps ----------------------------------------------------------------------------------------------------

    def _at_boundary(self) -> None:
        """Write the outputs that are due after this step: a row of metrics, a validation, a checkpoint.

        The checkpoint of a step comes last, so that it includes all rows of that step.
        """
        p, config = self.state, self.config
        if p.step % config.log_every == 0:
            self._log()
        if config.evaluation.every is not None:
            due = p.step % config.evaluation.every == 0
        else:
            due = p.batch == 0 and p.epoch % config.evaluation.every_epochs == 0
        is_best = due and self._validate()
        every = config.checkpoint.every
        if is_best or p.step in self.kept_for_good or (due if every is None else p.step % every == 0):
            self._save()

    def _finish(self) -> None:
        self._log()
        if self.state.validated is None or self.state.validated["step"] != self.state.step:
            self._validate()
            self.saved = None  # an existing checkpoint of this step does not include this validation
        self._save_now()

    def _log(self) -> None:
        """Write a row of metrics over the training steps since the last such row."""
        if not self.running_metrics.steps:
            return
        means = self.running_metrics.means(self.world)
        row = {**self._place("train"), **means, **self._spent(), **self.running_metrics.speed(self.peak.flops_per_s)}
        self.running_metrics = RunningMetrics(self.objective.metrics(self.device))
        self.recorder.logged(row)

    def _validate(self) -> bool:
        """Validate and write a row of metrics; return whether this is the best validation so far."""
        p = self.state
        self.progress.working("validation")
        with self.learner.evaluating() as predictor:
            row = {**self._place("validation"), **self._errors(predictor), **self._spent()}
            self.samples.record(p.step, predictor)
        is_best = validation_loss(row) < (math.inf if p.best is None else validation_loss(p.best))
        p.validated = row
        p.best, p.since_best = (row, 0) if is_best else (p.best, p.since_best + 1)
        self.recorder.validated(row, is_best)
        return is_best

    def _errors(self, predictor: Any) -> dict[str, float]:
        """Errors on all validation structures, over all processes. Adds the FLOPs of the predictions to the totals."""
        spent = [0.0]

        def counted(batch: AtomicBatch) -> Outputs:
            spent[0] += self.cost.prediction(batch.shape)
            outputs: Outputs = predictor(batch)
            return outputs

        mine = self.setup.validation_loader().epoch(0, self.world.rank, self.world.size)
        batches = (batch.to(self.device) for batch in mine)
        result = tally(counted, batches, self.objective).over(self.world, self.device)
        self.state.validation_flops += self.world.sums({"flops": spent[0]})["flops"]
        return result.values()

    def _place(self, split: str) -> dict[str, Any]:
        p = self.state
        return {
            "step": p.step,
            "epoch": p.epoch + p.batch / self.accumulation.loader.n_batches(p.epoch),
            "split": split,
        }

    def _spent(self) -> dict[str, Any]:
        p = self.state
        counts = {"structures": p.structures, "atoms": p.atoms, "edges": p.edges}
        flops = {"flops": p.flops, "validation_flops": p.validation_flops}
        machine = {"wall_s": self._elapsed(), "time": time.time(), "memory_bytes": memory_bytes(self.device)}
        return {**flops, **counts, **machine}

    # On disk ----------------------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, Any]:
        """Totals of the run, for run.json."""
        p = self.state
        counts = {"steps": p.step, "epochs": p.epoch, "skipped": p.skipped, "wall_s": self._elapsed()}
        seen = {"structures": p.structures, "atoms": p.atoms, "edges": p.edges}
        flops = {"flops": p.flops, "validation_flops": p.validation_flops}
        return {**counts, **seen, **flops, "best": p.best, "last": p.validated}

    def _save_now(self) -> None:
        """Save a checkpoint of this step as `_save` does, and wait until it is written."""
        self._save()
        self.recorder.writer.conclude()
        self.world.barrier()

    def _save(self) -> None:
        """Begin to save a checkpoint of this step, unless there is one. It is written while training goes on."""
        p = self.state
        if self.saved == p.step:
            return
        self.saved = p.step
        self.progress.working("checkpoint")
        p.wall_s = self._elapsed()
        state = {
            "position": p.plain(),
            "interval": self.running_metrics.state(self.world),
            "seed": self.config.seed,
            "steps_of_epochs": self.steps_of_epochs,
        }
        made = self.learner.checkpoint(p.step, state)
        self.recorder.saved(made, p.best_step, self.totals(), self.kept_for_good)

    def restore(self, saved: Checkpoint) -> None:
        """Restore the state of training from a checkpoint."""
        self.learner.restore(saved)
        self.state = TrainingState(**saved.state["position"])
        self.running_metrics.restore(saved.state["interval"], self.world)
        self.saved = saved.step
