"""Plan a study: determine the configuration, name and identity of each run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from matscale.core.data.named.catalog import resolve as locate
from matscale.core.data.named.published import refuse_to_fetch
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.estimate.describe import parameters
from matscale.core.filenames import LONGEST
from matscale.core.hosting.host import host
from matscale.core.model.architecture import Architecture, ArchitectureConfig
from matscale.core.parsing import MAX_DEPTH
from matscale.core.progress import SILENT, Reporter
from matscale.core.runs.config import StartConfig, TrainConfig, merged
from matscale.core.runs.files import called
from matscale.core.runs.record import CONFIG, Run
from matscale.core.study import cooldown
from matscale.core.study.config import ArchitectureGrid, Ladder, Study
from matscale.core.study.estimates import Estimator
from matscale.core.study.identity import RUNS, TRUNKS, PlannedRun, identity
from matscale.core.study.lr_law import LRLaw, read_lr_law, structures_seen
from matscale.core.train.data import parts
from matscale.core.train.setup import resolved

OWN = {
    "seed": "seeds",
    "optimizer.lr": "lr",
    "architecture.name": "architectures",
    "data.path": "data.path",
    "data.fraction": "data.fractions",
    "data.count": "data.counts",
    "data.validation_seed": "data.validation_seed",
    "budget": "budget",
    "labels": "name",
}
"""Keys of the training configuration that a study sets, each with the key of the study file that sets it."""

OWN_OF_COOLDOWNS = dict.fromkeys(("schedule.kind", "schedule.warmup", "schedule.decay", "checkpoint.at"), "wsd")

FAR_OFF = 0.05
"""Relative deviation of a model's number of parameters from its rung; if it is larger, the plan has a note."""


@dataclass(frozen=True)
class Size:
    """Model size of the grid: architecture and configuration."""

    grid: ArchitectureGrid
    architecture: Architecture
    label: str
    config: dict[str, Any]
    """Configuration of the architecture, with all keys."""
    parameters: dict[str, int]
    wanted: int | None = None
    """Number of parameters of the rung of the ladder; None for sizes that are not on a ladder."""

    @property
    def name(self) -> str:
        return f"{called(self.grid.name, self.grid.variant)}-{self.label}"

    @property
    def is_far_off(self) -> bool:
        """Whether the model's number of parameters deviates notably from its rung of the ladder."""
        return self.wanted is not None and abs(self.parameters["total"] / self.wanted - 1) > FAR_OFF


@dataclass
class StudyPlan:
    """Plan of a study: all its runs."""

    study: Study
    folder: Path
    """Folder of the study, absolute."""
    dataset: PackedDataset
    runs: list[PlannedRun] = field(default_factory=list)
    """Runs in order: a trunk comes before its branches."""
    notes: list[str] = field(default_factory=list)
    """Notes on the plan, such as runs that were left out of the grid, with the reason."""
    there: dict[str, Path] = field(default_factory=dict)
    """Run folders of an earlier sweep, by the last part of their names: the first characters of the run's identity."""
    counted: dict[tuple[Any, ...], int] = field(default_factory=dict)
    """Number of training structures by the settings that determine it; splitting for every seed would take too long."""

    def as_given(self, run: Path) -> Path:
        """Path of a run folder, below the study's folder as the user wrote it, so that the study can be moved."""
        return self.study.folder / run.relative_to(self.folder)


Do = Callable[[StudyPlan], None]
"""Function that trains the missing runs of a plan; it raises an error if none can be trained."""


def plan(study: Study, progress: Reporter = SILENT, fetches: bool = True) -> StudyPlan:
    """Plan every run of the grid. The dataset is made or downloaded first, so that runs need not do it.

    With `fetches` False, a missing published dataset is not downloaded: a DataError says how to fetch it. Raises
    ConfigError for unknown architectures, sizes, trackers and keys, with the nearest valid name; PluginError for a
    tracker whose package is missing; and DataError for data that cannot be used.
    """
    _refuse_own(study)
    _refuse_too_many(study)
    sizes = list(_sizes(study))
    if not fetches:
        refuse_to_fetch(study.data.path)
    dataset = PackedDataset.open(locate(study.data.path, progress), progress=progress)
    folder = study.folder.resolve()
    folders = [path for parent in (RUNS, TRUNKS) for path in (folder / parent).glob("*-*")]
    result = StudyPlan(study, folder, dataset, there={path.name.rpartition("-")[2]: path for path in folders})
    result.notes += [
        f"{size.name}: has {size.parameters['total']:,} parameters, the nearest number on its ladder."
        for size in sizes
        if size.is_far_off
    ]
    result.notes += [*_taken_for_one(study), *_doubtful_laws(study)]
    known: set[str] = set()
    for size, point in product(sizes, list(_points(study))):
        for run in _planned(result, size, point):
            if run.identity not in known:
                known.add(run.identity)
                result.runs.append(run)
            elif not run.is_trunk:
                result.notes.append(f"{run.name}: is the same run as another of the grid.")
    _require_watchers(result)
    _leave_out_short(result, progress)
    if not result.runs:
        raise ConfigError(f"The grid of {study.name} is empty. {' '.join(result.notes)}")
    return result


def _refuse_too_many(study: Study) -> None:
    """Raises ConfigError for a grid of more than `max_runs` runs, before the grid is made."""
    budget, data = study.budget, study.data
    lengths = [budget.epochs, budget.steps, budget.flops, study.wsd.steps if study.wsd else ()]
    factors = {
        "data.fractions and data.counts": len(data.fractions) + len(data.counts),
        "seeds": len(study.seeds),
        "budget": sum(map(len, lengths)),
    } | {f"grid.{key}": len(values) for key, values in _leaves(study.grid).items()}
    n_models = 0
    for grid in study.architectures:
        source = grid if grid.sizes or grid.params else study
        rungs = source.params.rungs if isinstance(source.params, Ladder) else len(source.params or ())
        lr = study.lr if grid.lr is None else grid.lr
        n_models += max(1, len(source.sizes) + rungs) * (max(1, len(lr)) if isinstance(lr, tuple) else 1)
    n = n_models * math.prod(max(1, factor) for factor in factors.values())
    if n > study.max_runs:
        told = ", ".join(f"{name}: {factor:,}" for name, factor in factors.items() if factor > 1)
        raise ConfigError(
            f"{study.name}: the grid has {n:,} runs, more than max_runs = {study.max_runs:,} (models and learning "
            f"rates: {n_models:,}{', ' + told if told else ''}). Leave values out, or set max_runs in the study."
        )


def _require_watchers(result: StudyPlan) -> None:
    """Raises ConfigError or PluginError if a plugin or tracker that a run needs is not available."""
    new = [run.config for run in result.runs if not (run.path / CONFIG).exists()]
    for plugins, trackers in dict.fromkeys((tuple(config.plugins), tuple(config.trackers)) for config in new):
        host().observers(plugins, trackers=trackers)


def _taken_for_one(study: Study) -> Iterator[str]:
    """Notes on entries of the study that have the same name but different models or starting points."""
    seen: dict[str, Any] = {}
    for grid in study.architectures:
        name, values = called(grid.name, grid.variant), _nested(grid.set)
        own = {key: values.get(key) for key in ("architecture", "start")}
        if seen.setdefault(name, own) != own:
            yield f"{name}: its entries set different models, but laws would treat them as one. Give each a `variant`."


def _leave_out_short(result: StudyPlan, progress: Reporter) -> None:
    """Leave out runs whose budget of FLOPs allows fewer steps than `least_steps`, with a note on each.

    Raises ConfigError for a budget of less than one step, if `least_steps` is 1.
    """
    least = result.study.budget.least_steps
    new = [run for run in result.runs if run.config.budget.max_flops and not (run.path / CONFIG).exists()]
    if not new:
        return

    estimator, short = Estimator(mfu=1.0, time_steps=0), []
    for done, run in enumerate(new):
        progress.stage("Counting the FLOPs of a step", done, len(new))
        try:
            steps = estimator.of(run).steps
        except ConfigError as error:
            if least == 1:
                raise ConfigError(
                    f"{run.name}: {error} Or leave such runs out of the study: budget.least_steps = 2 or more."
                ) from None
            steps = 0
        if steps < least:
            short.append(run)
            result.notes.append(f"{run.name}: left out, since its budget allows {steps} steps, fewer than {least}.")
    left_out = {run.identity for run in short}
    result.runs = [run for run in result.runs if run.identity not in left_out]


def _sizes(study: Study) -> Iterator[Size]:
    for grid in study.architectures:
        architecture = host().architecture(grid.name)
        own = bool(grid.sizes or grid.params)
        names = grid.sizes if own else study.sizes
        rungs = grid.params if own else study.params
        counts = [] if rungs is None else rungs.counts() if isinstance(rungs, Ladder) else [round(n) for n in rungs]
        chosen: list[tuple[str, ArchitectureConfig, int | None]]
        chosen = [(name, architecture.size(name), None) for name in names]
        chosen += [(short(n), architecture.ladder(n), n) for n in counts]
        over = _section(_section(merged(_nested(study.set), _nested(grid.set)), "architecture"), "architecture.config")
        if not chosen:
            chosen = [("default", architecture.config.parse(over, f"architecture.config of {grid.name}"), None)]
        for label, config, wanted in chosen:
            full = architecture.config.parse(
                merged(config.plain(), over), f"{study.name}: architecture.config of {grid.name}"
            )
            wanted = wanted if full == config else None  # otherwise the study itself changes the model
            yield Size(grid, architecture, label, full.plain(), parameters(architecture, full), wanted)


def _section(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Table under the last part of `key`, or an empty one. Raises ConfigError if the value is not a table."""
    found = values.get(key.rpartition(".")[2], {})
    if not isinstance(found, Mapping):
        raise ConfigError(f"set: {key} = {found!r}: expected a table of keys.")
    return dict(found)


@dataclass(frozen=True)
class GridPoint:
    """Point of the grid without the model: values of training keys, with short labels."""

    values: dict[str, Any]
    labels: dict[str, Any]


def _points(study: Study) -> Iterator[GridPoint]:
    subsets: list[dict[str, Any]] = [{"fraction": f} for f in study.data.fractions]
    subsets += [{"count": n} for n in study.data.counts]
    budget = study.budget
    lengths: list[dict[str, Any]] = [{"epochs": n} for n in budget.epochs]
    lengths += [{"steps": n} for n in budget.steps] + [{"max_flops": n} for n in budget.flops]
    limit = {} if budget.max_time is None else {"max_time": budget.max_time}
    further = _leaves(study.grid)
    for subset, seed, length, values in product(
        subsets or [{}], study.seeds, lengths or [{}], product(*(further[key] for key in further))
    ):
        chosen = dict(zip(further, values))
        data: dict[str, Any] = {"validation_seed": study.data.validation_seed}
        data |= {k: v for k, v in subset.items() if v != 1.0}  # all of it, requested in any way, has one identity
        nested = {"data": data, "seed": seed, "budget": {**length, **limit}}
        for key, value in chosen.items():
            nested = merged(nested, _nested({key: value}))
        shown = length if len(lengths) > 1 else {}
        yield GridPoint(nested, {**subset, "seed": seed, **shown, **chosen})


def _leaves(grid: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """Flatten `[grid]` to values by dotted key. Raises ConfigError for a value that is not a list, or an empty list."""
    found: dict[str, list[Any]] = {}
    for name, value in grid.items():
        key = prefix + name
        if isinstance(value, Mapping):
            found |= _leaves(value, f"{key}.")
        elif isinstance(value, list) and value:
            found[key] = value
        else:
            raise ConfigError(f"grid.{key} = {value!r}: expected a list of the values to try, with at least one.")
    return found


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nest dotted keys: `{"a.b": c}` becomes `{"a": {"b": c}}`."""
    result: dict[str, Any] = {}
    for key, value in values.items():
        if key.count(".") >= MAX_DEPTH:
            raise ConfigError(f"{key[:60]}...: {key.count('.') + 1} levels; no key is that deep.")
        inner = _nested(value) if isinstance(value, Mapping) else value
        for part in reversed(key.split(".")):
            inner = {part: inner}
        result = merged(result, inner)
    return result


def _refuse_own(study: Study) -> None:
    """Raises ConfigError for keys that the study sets elsewhere, since one of the two values would have no effect."""
    words = OWN | (OWN_OF_COOLDOWNS if study.wsd else {})
    tables = {"grid": study.grid, "set": study.set} | {f"set of {g.name}": g.set for g in study.architectures}
    for table, values in tables.items():
        _refuse_clashes(study.name, table, values)
        for key in _dotted(_nested(values)):
            own = next((word for own, word in words.items() if f"{key}.".startswith(f"{own}.")), None)
            if own is not None:
                raise ConfigError(
                    f"{study.name}: {table}: {key!r} is set by `{own}` of the study. Leave it out of {table}."
                )


def _refuse_clashes(study: str, table: str, values: Mapping[str, Any]) -> None:
    """Raises ConfigError for a key that is given twice, or together with a key inside it: one value would be lost."""
    seen: dict[str, str] = {}
    outside: dict[str, str] = {}
    for key, leaves in _given(values, is_grid=table == "grid"):
        above = {leaf: _outer(leaf) for leaf in leaves}
        for leaf, outer in above.items():
            other = outside.get(leaf) or next((seen[name] for name in (leaf, *outer) if name in seen), None)
            if other is not None:
                raise ConfigError(
                    f"{study}: {table}: {other!r} and {key!r} set the same key, and one of their values would be lost. "
                    "Leave one of them out."
                )
        seen |= dict.fromkeys(leaves, key)
        outside |= {name: key for outer in above.values() for name in outer}


def _outer(key: str) -> list[str]:
    """Outer keys of a dotted key: `a` and `a.b` for `a.b.c`."""
    parts = key.split(".")[: MAX_DEPTH + 1]
    return [".".join(parts[:k]) for k in range(1, len(parts))]


def _given(values: Mapping[str, Any], prefix: str = "", *, is_grid: bool) -> Iterator[tuple[str, set[str]]]:
    """Yield pairs: a key as written, and the set of dotted keys that it sets.

    A list in `[grid]` may have tables that set different keys; the set then has the keys of all of them.
    """
    for name, value in values.items():
        key = prefix + name
        if isinstance(value, Mapping):
            yield from _given(value, f"{key}.", is_grid=is_grid)
            continue
        choices = value if is_grid and isinstance(value, list) else [value]
        yield key, {leaf for one in choices for leaf in (_dotted({key: one}) if isinstance(one, Mapping) else [key])}


def _planned(result: StudyPlan, size: Size, point: GridPoint) -> Iterator[PlannedRun]:
    study, grid = result.study, size.grid
    fixed = merged(_nested(study.set), _nested(grid.set))
    for key in ("data", "optimizer"):  # checked here, since values of the study would replace a wrong one below
        _section(fixed, key)
    values = merged(fixed, point.values)
    model = merged(size.config, _section(_section(values, "architecture"), "architecture.config"))
    values = merged(values, {"architecture": {"name": grid.name, "config": model}, "data": {"path": study.data.path}})
    begun_with = _section(values, "start").get("run")
    if begun_with is not None:
        StartConfig.parse({"run": begun_with}, f"{study.name}: start")
        Run.open(begun_with)  # raises its error before any run is started
    lr_law = _lr_law(study, size)
    if lr_law is not None:
        values = _by_law(result, size, lr_law, values)
    for lr in _rates(study, size):
        variant = {"variant": grid.variant} if grid.variant else {}
        labels = {"architecture": grid.name, **variant, "size": size.label, **point.labels}
        chosen = values if lr is None else merged(values, {"optimizer": {"lr": lr}})
        config = resolved(TrainConfig.parse(chosen, study.name), size.architecture)
        labels["lr"] = config.optimizer.lr
        run = _run(result, size, config, labels)
        yield from (
            [run] if study.wsd is None else cooldown.row(study.wsd, run, partial(_identified, result), result.as_given)
        )


def _lr_law(study: Study, size: Size) -> LRLaw | None:
    """Read the learning-rate law of an architecture, if the study names a file."""
    lr = study.lr if size.grid.lr is None else size.grid.lr
    return read_lr_law(lr, size.grid.name) if isinstance(lr, Path) else None


def _doubtful_laws(study: Study) -> list[str]:
    """Notes on learning-rate laws whose verdict is not `law`."""
    files = {(grid.name, study.lr if grid.lr is None else grid.lr) for grid in study.architectures}
    notes = []
    for name, file in sorted((name, file) for name, file in files if isinstance(file, Path)):
        lr_law = read_lr_law(file, name)
        for what, law in (("learning rate", lr_law), ("batch", lr_law.batch_law)):
            if law is not None and law.verdict not in ("", "law"):
                notes.append(f"{file}: the law of the {what} of {name} is {law.verdict}: {'; '.join(law.reasons)}.")
    return notes


def _by_law(result: StudyPlan, size: Size, lr_law: LRLaw, values: dict[str, Any]) -> dict[str, Any]:
    """Fill in the learning rate from `lr_law`, and, if `values` set no batch size, the batch size from it."""
    file = result.study.lr if size.grid.lr is None else size.grid.lr
    n, d = size.parameters[lr_law.parameters], None
    is_own = _section(values, "batch").get("structures") is not None
    if lr_law.batch is not None and not is_own:
        values = merged(values, {"batch": {"structures": lr_law.batch}})
    if lr_law.asks_for_data and result.study.wsd is None:
        config = resolved(TrainConfig.parse(values, result.study.name), size.architecture)
        batch = config.batch.structures if is_own or lr_law.batch_law is None else None
        of_a_step = None if batch is None else batch * config.batch.accumulate
        d = structures_seen(config.budget, _count(result, config), of_a_step)
    try:
        if lr_law.batch_law is not None and not is_own:
            values = merged(values, {"batch": {"structures": lr_law.structures(n, d)}})
        return merged(values, {"optimizer": {"lr": lr_law.lr(n, d)}})
    except ConfigError as error:
        raise ConfigError(f"{file}: {size.grid.name}: {error} Tune again: matscale tune.") from None


def _rates(study: Study, size: Size) -> list[float] | list[None]:
    lr = study.lr if size.grid.lr is None else size.grid.lr
    return [None] if lr is None or isinstance(lr, Path) else list(lr)


def _run(result: StudyPlan, size: Size, config: TrainConfig, labels: dict[str, Any]) -> PlannedRun:
    counts = size.parameters
    if config.architecture.config != size.config:  # a key of the grid changed the model
        counts = parameters(size.architecture, size.architecture.config.parse(config.architecture.config))
    run = PlannedRun(result.folder / RUNS / "-", config, "", labels, counts, _count(result, config))
    return _identified(result, run)


def _count(result: StudyPlan, config: TrainConfig) -> int:
    """Number of training structures of a configuration."""
    data = config.data  # the study sets validation_seed; the seed draws which structures of the part, not how many
    key = (data.validation, data.split_by, data.validation_seed, data.fraction, data.count, data.overfit)
    if key not in result.counted:
        result.counted[key] = len(parts(result.dataset, config)[0])
    return result.counted[key]


def _identified(result: StudyPlan, run: PlannedRun, trunk: PlannedRun | None = None) -> PlannedRun:
    """Add identity, folder and labels (for run.json) to a run."""
    parent = run.path.parent.name
    digest = identity(run.config, result.dataset.hash, trunk.identity if trunk else None)
    labels = {"study": result.study.name, "identity": digest, **run.labels}
    plain = {k: v if isinstance(v, str | int | float) else str(v) for k, v in labels.items()}
    config = run.config.model_copy(update={"labels": plain})
    # Names depend on the dimensions of the grid, which may have changed since the run started. The identity is
    # the same.
    path = result.there.get(digest[:8], result.folder / parent / f"{name(run.labels)}-{digest[:8]}")
    return replace(run, config=config, identity=digest, path=path)


def name(labels: Mapping[str, Any]) -> str:
    """Readable name of a run: `schnet-30k-fraction0.1-seed0-lr0.001`; folders append the identity."""
    first = [called(labels["architecture"], labels.get("variant")), str(labels["size"])]
    rest = [f"{key.rpartition('.')[2]}{_text(value)}" for key, value in labels.items() if key not in _FIRST]
    whole = "-".join(_safe(part) for part in first + rest)
    return whole.encode()[:LONGEST].decode(errors="ignore")  # a character may have four bytes


_FIRST = ("architecture", "variant", "size", "role")


def _safe(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._+" else "_" for c in text)


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _dotted(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key, value in values.items():
        keys += _dotted(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [prefix + key]
    return keys


def short(n: float) -> str:
    """Short form of a number: `3k`, `30k`, `1.5M`.

    >>> short(3_000), short(30_000), short(1.5e6)
    ('3k', '30k', '1.5M')
    """
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= factor:
            return f"{n / factor:.3g}{letter}"
    return str(round(n))
