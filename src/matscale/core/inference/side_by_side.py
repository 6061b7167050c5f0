"""Evaluate several runs and their baselines side by side, on the same structures of one dataset.

This is what `matscale evaluate` prints and `matscale view` draws.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matscale.core.baselines import Baseline, passes, plain_baselines
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.named.catalog import resolve
from matscale.core.data.sources.pack import REJECTED, pack
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.files import scratch
from matscale.core.inference.compare import (
    Which,
    baselines_of,
    dataset_of,
    measure,
    rows_of,
    usable,
    without_dataset,
)
from matscale.core.inference.load import load
from matscale.core.inference.survey import Survey, ranges_of
from matscale.core.model.outputs import Outputs
from matscale.core.model.potential import Potential
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.record import Run
from matscale.core.runs.trained_potential import resolve_step
from matscale.core.train.evaluation import evaluate


@dataclass(frozen=True)
class Model:
    """Predictor that was evaluated: a run at a checkpoint, or a baseline."""

    name: str
    metrics: Mapping[str, float]
    survey: Survey
    run: Run | None = None
    step: int | None = None
    potential: Potential | None = None

    def plain(self) -> dict[str, Any]:
        """Metrics in eV units; `groups` if there are any; for a run also `checkpoint`, its step, and `worst`."""
        groups = self.survey.groups()
        worst = [bad.plain() for bad in self.survey.worst()]
        more = {"checkpoint": self.step, **({"worst": worst} if self.survey.n_worst else {})} if self.run else {}
        return {**self.metrics, **more, **({"groups": groups} if groups else {})}


@dataclass(frozen=True)
class Evaluation:
    """Errors of runs and baselines on the structures at `rows` of a dataset."""

    dataset: PackedDataset
    rows: NDArray[np.int64]
    runs: tuple[Model, ...]
    baselines: tuple[Model, ...] = ()
    left_out: tuple[str, ...] = ()
    """Texts on structures that were left out"""
    without_baselines: str = ""
    """Reason why there are no baselines, though they were asked for"""

    @property
    def models(self) -> tuple[Model, ...]:
        return (*self.runs, *self.baselines)


def evaluate_runs(
    runs: Mapping[str, Run],
    dataset: PackedDataset,
    which: Which = "auto",
    *,
    checkpoint: str | int = "best",
    averaged: bool | None = None,
    batch: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    zero_net_force: bool = False,
    skip_invalid: bool = False,
    baselines: bool = True,
    by: Iterable[str] = (),
    n_worst: int = 0,
    parity: bool = False,
    progress: Reporter = SILENT,
) -> Evaluation:
    """Evaluate runs, by name, and their baselines on the same structures. Memory does not grow with their number.

    `which`, `checkpoint`, `averaged`, `device`, `dtype` and `zero_net_force` are explained in `rows_of` and `load`;
    `by`, `n_worst` and `parity` (grids of parity plots) in `matscale.core.inference.survey`. With `skip_invalid`,
    structures that one of the runs cannot predict are left out. Baselines are fitted to the training part of a run; if
    this part is missing, `without_baselines` of the result gives the reason.
    """
    by = tuple(by)
    potentials = [
        load(run, checkpoint, device=device, dtype=dtype, zero_net_force=zero_net_force, averaged=averaged)
        for run in runs.values()
    ]
    rows, left_out = shared_rows([*runs.values()], potentials, dataset, which, skip_invalid=skip_invalid)
    grids = ranges_of(dataset, rows) if parity else None
    models = []
    for (name, run), potential in zip(runs.items(), potentials):
        survey = Survey(dataset, by, n_worst, grids)
        metrics = measure(potential, dataset, rows, batch, any_element=True, survey=survey, progress=progress)
        models.append(Model(name, metrics, survey, run, resolve_step(run, checkpoint), potential))
    fitted, reason = dict[str, Baseline](), ""
    if baselines:
        try:
            fitted = baselines_of_all(runs)
        except DataError as error:
            reason = str(error)
    beside = [_baseline(name, one, dataset, rows, by) for name, one in fitted.items()]
    return Evaluation(dataset, rows, tuple(models), tuple(beside), tuple(left_out), reason)


def _baseline(
    name: str, baseline: Baseline, dataset: PackedDataset, rows: NDArray[np.int64], by: tuple[str, ...]
) -> Model:
    survey = Survey(dataset, by)

    def heard(batch: AtomicBatch) -> Outputs:
        outputs = baseline(batch)
        if by:
            survey.add(outputs, batch)
        return outputs

    return Model(name, evaluate(heard, passes(dataset, rows)()), survey)


def names_of(runs: Sequence[Run]) -> dict[str, Run]:
    """Names of runs in a table: the architecture for one run, the parts in which the paths differ for several.

    Raises ConfigError if a run is given twice.
    """
    if len(runs) == 1:
        return {runs[0].config.architecture.name: runs[0]}
    paths = [run.path.resolve() for run in runs]
    if twice := next((run.path for k, run in enumerate(runs) if paths[k] in paths[:k]), None):
        raise ConfigError(f"{twice}: is given twice. Give each run once.")
    longest = max(len(path.parts) for path in paths)
    depth = next(k for k in range(1, longest + 1) if len({path.parts[-k:] for path in paths}) == len(paths))
    return {"/".join(path.parts[-depth:]): run for path, run in zip(paths, runs)}


def shared_rows(
    runs: Sequence[Run],
    potentials: Sequence[Potential],
    dataset: PackedDataset,
    which: Which = "auto",
    *,
    skip_invalid: bool = False,
) -> tuple[NDArray[np.int64], list[str]]:
    """Rows of `dataset` on which to measure several runs: rows of the part `which` that every run can predict.

    Returns the rows, and a text on each kind of structure that is left out. Raises DataError as `usable` does, and if
    the runs have no row in common because their validation parts differ.
    """
    shared, told = np.arange(len(dataset)), list[str]()
    for run, potential in zip(runs, potentials):
        rows, left_out = usable(run, potential, dataset, rows_of(run, dataset, which), skip_invalid=skip_invalid)
        told += [text if len(runs) == 1 else f"{run.path}: {text}" for text in left_out]
        kept = np.intersect1d(shared, rows) if len(runs) > 1 else rows
        if len(kept) < len(rows) and len(shared) < len(dataset):
            told.append(f"{run.path}: {len(rows) - len(kept):,} structures on which not all of the runs are measured")
        shared = kept
    if not len(shared):
        raise DataError(
            f"{dataset.path}: the runs have no structure in common to be measured on: their validation parts differ. "
            "Pass --split all, or evaluate them one by one."
        )
    return shared, told


@contextmanager
def opened(data: str | Path | None, runs: Sequence[Run], progress: Reporter = SILENT) -> Iterator[PackedDataset]:
    """Open the data to measure runs on: a packed dataset, its name, or a file of structures; None means the runs' own.

    A file is packed into a temporary folder. Raises DataError for a file that no reader knows. If `data` is None,
    raises DataError for runs with different datasets, and ConfigError for runs without a dataset.
    """
    if data is None:
        if message := next(filter(None, map(without_dataset, runs)), ""):
            raise ConfigError(message)
        first, *others = [dataset_of(run, progress) for run in runs]
        if wrong := next((other for other in others if other.hash != first.hash), None):
            raise DataError(
                f"The runs were trained on different data: {first.path} and {wrong.path}. Name one: --data."
            )
        yield first
    elif Path(data).is_file():
        with scratch("evaluate") as folder:
            try:
                packed = pack([data], folder / "data", progress=progress)
                if packed.manifest.rejected:
                    with (folder / "data" / REJECTED).open(encoding="utf-8") as file:
                        reason = json.loads(file.readline())["reason"]
                    warnings.warn(
                        f"{data}: {packed.manifest.rejected:,} structures cannot be used and are left out; the first: "
                        f"{reason}",
                        stacklevel=3,
                    )
                yield PackedDataset.open(folder / "data", progress=progress)
            except MatscaleError as error:
                error.args = (str(error).replace(str(folder / "data"), str(data)),)
                raise
    else:
        dataset = PackedDataset.open(resolve(str(data), progress), progress=progress)
        dataset.check()
        yield dataset


def baselines_of_all(runs: Mapping[str, Run]) -> dict[str, Baseline]:
    """Baselines of several runs, by name; a baseline that differs between runs has the name of its run added."""
    found = {name: baselines_of(run) for name, run in runs.items()}
    first = next(iter(found.values()))
    if all(plain_baselines(each) == plain_baselines(first) for each in found.values()):
        return first
    return {f"{kind} of {name}": one for name, each in found.items() for kind, one in each.items()}
