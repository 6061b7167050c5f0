"""Functions of `import matscale`, in the order of a study: train, evaluate, predict, compare, plan.

Each function is a few lines that call `matscale.core`. Three more functions of `import matscale` are defined in the
core: `load` and `calculator` in `core/inference/load.py`, and `fit` in `core/scaling/fit.py`. The commands of the
command line have the same names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matscale.core.data.graph import Graph
from matscale.core.errors import ConfigError, DataError, NonFinitePrediction
from matscale.core.train.options import configuration, free_folder, given
from matscale.core.units import parse_count, parse_parameters

if TYPE_CHECKING:
    import torch
    from ase import Atoms

    from matscale.core.data.batch import AtomicBatch
    from matscale.core.data.graph import Graph
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.data.structure import Structure
    from matscale.core.inference.predict import Prediction
    from matscale.core.model.potential import Potential
    from matscale.core.runs.config import TrainConfig
    from matscale.core.runs.record import Run
    from matscale.core.scaling.allocation.plan import Plan
    from matscale.core.scaling.comparison.compare import Comparison
    from matscale.core.scaling.result import Fit
    from matscale.core.scaling.tables.sources import Source

    Model = Potential | Run | Path | str
    Structures = Structure | Atoms | Iterable[Structure | Atoms] | Path | str


def train(
    config: str | Path | TrainConfig | Mapping[str, Any] | None = None,
    *,
    arch: str | None = None,
    size: str | None = None,
    params: str | float | None = None,
    data: str | Path | None = None,
    set: Mapping[str, Any] | Iterable[str] = (),
    start: str | Path | None = None,
    partial: bool | None = None,
    references: Literal["auto", "keep", "refit"] | None = None,
    pretrain: Literal["distances", "denoise"] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    max_time: str | float | None = None,
    max_flops: str | float | None = None,
    lr: float | None = None,
    batch: int | Literal["auto"] | None = None,
    seed: int | None = None,
    device: str | None = None,
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] | None = None,
    overfit: int | None = None,
    track: str | Sequence[str] | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    quiet: bool = False,
) -> Run:
    """Train one model and return its run: the folder `path`, `config`, `info` (run.json) and `metrics()`.

    `config` is a TOML file, a TrainConfig or a dictionary. The other arguments are the options of `matscale train` and
    override `config`; `start` is the option --from, and `set` may also be a dictionary {"optimizer.lr": 1e-3}. `output`
    is the run folder, by default a new one in runs/. Progress is shown on stderr unless `quiet`. The returned run can
    be given to `matscale.load`, `matscale.evaluate` and `matscale.predict`.

    >>> run = matscale.train(arch="schnet", params="5k", data="emt", steps=10, output="runs/little", quiet=True)
    >>> run
    <Run runs/little: schnet, completed, 10 steps>
    >>> run.info["best"]["step"], run.info["best"]["loss"] < 60
    (10, True)
    >>> matscale.train(arch="schnet", stepps=30)
    Traceback (most recent call last):
    matscale.core.errors.ConfigError: matscale.train has no argument 'stepps'. Did you mean 'steps'? Known: ...

    Raises ConfigError for contradictory options or an existing run, DataError for unusable data, and NonFiniteLossError
    if the loss becomes NaN or infinite. Ctrl-C saves the run and raises StoppedEarly; `resume=True` continues the run.
    """
    from matscale.cli.progress.reporter import reporter  # start-up: torch
    from matscale.core.train.processes.world import World
    from matscale.core.train.session import train as start_training

    if resume and output is None:
        raise ConfigError("resume=True: name the run to resume with output=.")
    options = {
        "data": data if data is None else str(data), "epochs": epochs, "steps": steps, "max_time": max_time,
        "max_flops": max_flops, "lr": lr, "batch": batch, "seed": seed, "device": device, "precision": precision,
        "overfit": overfit, "start": start if start is None else str(start), "partial": partial,
        "references": references, "pretrain": pretrain, "track": [track] if isinstance(track, str) else track,
    }  # fmt: skip
    resolved, architecture = configuration(
        arch,
        size,
        None if params is None else _parameters(params),
        _values(config),
        given(options),
        _assignments(set),
        Path(output) if resume and output is not None else None,
    )
    world = World.from_environment()
    if world.size > 1 and output is None:
        raise ConfigError("Several processes train one run: name its folder with output=.")
    folder = free_folder(resolved) if output is None else output
    with reporter(quiet or not world.is_main) as progress:
        if batch == "auto" and not resume:
            from matscale.core.estimate.probe import with_fitting_batch  # start-up: torch

            resolved = with_fitting_batch(resolved, architecture, progress=progress)
        return start_training(resolved, folder, resume=resume, architecture=architecture, progress=progress)


def _parameters(params: str | float) -> int:

    try:
        return parse_parameters(params)
    except ValueError as error:
        raise ConfigError(f"params = {error}") from None


def _values(config: str | Path | TrainConfig | Mapping[str, Any] | None) -> Path | Mapping[str, Any] | None:
    from matscale.core.config import Config  # start-up: pydantic

    if isinstance(config, Config):
        return config.plain()
    if config is None or isinstance(config, Mapping):
        return config
    if not isinstance(config, str | Path):
        raise ConfigError(f"config is of type {type(config).__name__}: expected a TOML file, a TrainConfig or a dict.")
    return Path(config)


def _assignments(values: Mapping[str, Any] | Iterable[str]) -> list[str]:
    """Convert assignments to texts `KEY=VALUE`.

    A value of a dictionary becomes JSON; lists, numbers and texts in JSON are also TOML.
    """
    if isinstance(values, Mapping):
        return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
    return [values] if isinstance(values, str) else list(values)


def evaluate(
    model: Model,
    data: PackedDataset | Path | str | Iterable[Structure | Atoms] | None = None,
    *,
    split: Literal["auto", "validation", "train", "all"] = "auto",
    checkpoint: str | int = "best",
    batch: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> dict[str, float]:
    """Evaluate a run or a loaded model: returns the errors of `matscale evaluate --json` (eV/atom, eV/Å, eV/Å³).

    `data` is a packed dataset (its path or name), or structures with labels (for ase.Atoms, their calculator holds the
    labels). The default is the dataset of the run. `split` is the part of the dataset: `auto` means the validation part
    of the run's own dataset, and all structures of any other dataset. The result under the key `loss` is the loss by
    which models are compared.

    >>> errors = matscale.evaluate("runs/first")
    >>> errors["n_structures"], errors["loss"] < 60
    (4, True)
    >>> potential = matscale.load("runs/first")
    >>> matscale.evaluate(potential, data="emt", split="all")["n_structures"]
    40

    Raises ConfigError for a run that does not exist, and DataError for a dataset that does not exist, for elements that
    the model does not know, and for structures without neighbours. Raises NonFinitePrediction if predictions are NaN or
    infinite.
    """
    import numpy as np  # start-up: torch

    from matscale.core.data.batch import AtomicBatch
    from matscale.core.data.named.catalog import resolve
    from matscale.core.data.store.packed import PackedDataset
    from matscale.core.inference.compare import dataset_of, measure, rows_of, usable
    from matscale.core.train.evaluation import evaluate as errors_of

    run, potential = _opened(model, checkpoint, device, dtype)
    if data is not None and not isinstance(data, PackedDataset | Path | str):
        if split not in ("auto", "all"):
            raise ConfigError(f"split = {split!r}: only a dataset has parts; leave split out for other structures.")
        device = potential.references.device
        found = errors_of(potential, (AtomicBatch.join(some).to(device) for some in _prepared(potential, data, batch)))
        if "loss" not in found:
            raise DataError("There is no structure with a label to evaluate on.")
        return found
    if isinstance(data, PackedDataset):
        dataset = data
    else:
        if data is None and (run is None or "dataset" not in run.info):
            raise ConfigError("The model has no dataset of its own: name a dataset with data=.")
        dataset = dataset_of(run) if run and data is None else PackedDataset.open(resolve(str(data)))
        dataset.check()
    if run is None:
        if split not in ("auto", "all"):
            raise ConfigError(f"split = {split!r}: only a run defines parts. Give the run in place of its model.")
        return measure(potential, dataset, np.arange(len(dataset)), batch)
    rows, _ = usable(run, potential, dataset, rows_of(run, dataset, split))
    return measure(potential, dataset, rows, batch, any_element=True)


def predict(
    model: Model,
    structures: Structures,
    *,
    checkpoint: str | int = "best",
    batch: int = 32,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
) -> list[Prediction]:
    """Predict structures, in order: each result has `energy` [eV], `forces` [n_atoms, 3] eV/Å, `stress` [3, 3] eV/Å³.

    `structures` is one ase.Atoms or matscale.Structure, several of them, or a file, which is read as in
    `matscale predict`. `stress` is None if the structure has no volume, or if the model predicts no stress.

    >>> from ase.build import bulk
    >>> copper, gold = matscale.predict("runs/first", [bulk("Cu"), bulk("Au", cubic=True)])
    >>> copper.forces.shape, gold.forces.shape, gold.stress.shape
    ((1, 3), (4, 3), (3, 3))

    Raises DataError that names the first structure that cannot be predicted (an element that was not in training, two
    atoms at one position). Raises NonFinitePrediction that names all structures whose predictions are not finite.
    """
    from matscale.core.inference.predict import listed, predict_batch  # start-up: torch

    _, potential = _opened(model, checkpoint, device, dtype)
    found = [one for some in _prepared(potential, structures, batch) for one in predict_batch(potential, some)]
    if bad := [position for position, one in enumerate(found) if not one.is_finite]:
        raise NonFinitePrediction(
            f"The predictions for {len(bad)} of {len(found)} structures are not finite: {listed(bad)}. Look at their "
            "geometry."
        )
    return found


def batch(
    structures: Structures, graph: Graph | Potential | float | None = None, *, dtype: torch.dtype | str | None = None
) -> AtomicBatch:
    """Make a batch of structures, with the edges of `graph`, for your own models and loops.

    `graph` is a Graph, a cutoff in Å, or None for no edges. It can also be a Potential; then its graph and its
    floating-point type are used. The batch includes the labels of the structures (for ase.Atoms, those of their
    calculator); missing labels are NaN. Floating-point tensors are float32 unless `dtype` is float64; energies are
    always float64.

    >>> from ase.build import bulk
    >>> two = matscale.batch([bulk("Cu"), bulk("Au", cubic=True)], 3.0)
    >>> two.n_structures, two.n_atoms, two.n_edges
    (2, 5, 60)
    >>> potential = matscale.load("runs/first")
    >>> potential(matscale.batch(bulk("Cu"), potential)).forces.shape
    torch.Size([1, 3])
    """
    import torch  # start-up: torch

    from matscale.core.data.neighbors import collate
    from matscale.core.inference.load import dtype_of
    from matscale.core.inference.predict import floating
    from matscale.core.model.potential import Potential

    kind = torch.float32 if dtype is None else dtype_of(dtype)
    if isinstance(graph, Potential):
        kind = floating(graph) if dtype is None else kind
        graph = graph.graph
    elif isinstance(graph, int | float):
        graph = Graph.radius(graph)
    elif not isinstance(graph, Graph | None):
        raise ConfigError(f"graph is of type {type(graph).__name__}: expected a Graph, a cutoff in Å or a Potential.")
    return collate(list(_structures(structures)), graph or Graph.none(), kind)


def _opened(
    model: Model, checkpoint: str | int, device: torch.device | str, dtype: torch.dtype | str | None
) -> tuple[Run | None, Potential]:
    """Load a model: returns its run and its Potential.

    For a model that is loaded already, the run is None.
    """
    from matscale.core.inference.load import load  # start-up: torch
    from matscale.core.model.potential import Potential
    from matscale.core.runs.record import Run

    if isinstance(model, Potential):
        if checkpoint != "best" or str(device) != "cpu" or dtype is not None:
            raise ConfigError("checkpoint, device and dtype set how a run is loaded, but this model is loaded already.")
        return None, model.eval()
    if not isinstance(model, Run | str | Path):
        raise ConfigError(f"model is of type {type(model).__name__}: expected a run, its folder or a Potential.")
    run = model if isinstance(model, Run) else Run.open(model)
    return run, load(run, checkpoint, device=device, dtype=dtype)


def _prepared(potential: Potential, structures: Structures, size: int) -> Iterator[list[AtomicBatch]]:
    """Yield lists of `size` batches, each batch with one structure.

    Raises DataError for a structure that the potential cannot predict.
    """
    from matscale.core.inference.predict import prepare  # start-up: torch

    if size < 1:
        raise ConfigError(f"batch = {size}: must be at least 1.")
    remaining = _structures(structures)
    while chunk := list(islice(remaining, size)):
        yield [_named(prepare, potential, one) for one in chunk]


def _named(prepare: Callable[[Potential, Structure], AtomicBatch], potential: Potential, one: Structure) -> AtomicBatch:
    try:
        return prepare(potential, one)
    except DataError as error:
        raise DataError(f"{one.source}: {str(error).removeprefix(f'{one.source}: ')}") from None


def _structures(given: Structures) -> Iterator[Structure]:
    """Yield the given structures, with their labels. Raises ConfigError for objects of another type."""
    from ase import Atoms  # start-up: ase

    from matscale.core.data.sources.labels import Unusable, attach
    from matscale.core.data.sources.reader import from_ase
    from matscale.core.data.structure import Structure

    items: Iterable[Any]
    if isinstance(given, str | Path):
        items = _in_file(Path(given))
    elif isinstance(given, Structure | Atoms):
        items = [given]
    elif isinstance(given, Iterable):
        items = given
    else:
        raise ConfigError(f"structures is of type {type(given).__name__}: expected structures or a file of them.")
    for position, item in enumerate(items):
        if isinstance(item, Structure):
            yield item if item.source else replace(item, source=f"structure {position}")
            continue
        if not isinstance(item, Atoms):
            raise ConfigError(
                f"structures[{position}] is of type {type(item).__name__}: expected ase.Atoms or matscale.Structure."
            )
        try:
            structure = from_ase(item, f"structure {position}")
            attach(structure)
        except Unusable as fault:
            raise DataError(f"structure {position}: {fault}.") from None
        yield structure


def _in_file(path: Path) -> Iterator[Structure]:
    from matscale.core.data.sources.labels import Keys, Unusable, attach  # start-up: torch
    from matscale.core.inference.predict import reader_for, understood

    for position, frame in enumerate(reader_for(path).read(path, 0, None)):
        structure = understood(frame, path, position, Keys())
        try:
            attach(structure)
        except Unusable as fault:
            raise DataError(f"{structure.source}: {fault}.") from None
        yield structure


def compare(
    source: Source,
    architectures: str | Sequence[str] = (),
    *,
    axis: Literal["n", "d", "c"] | None = None,
    at: float | None = None,
    at_loss: float | Sequence[float] = (),
    margin: float | None = None,
    target: str = "loss",
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
) -> Comparison:
    """Compare how architectures scale, and how much each needs for the same loss, as `matscale compare` does.

    `source`, `target`, `columns`, `where` and `baselines` are those of `matscale.fit`. If no `architectures` are named,
    all in the table are compared. `axis` is the variable: n (parameters), d (data) or c (compute). Runs are compared at
    one value of another variable, which is data for `axis` n or c, and parameters for `axis` d; `at` is this value.
    `at_loss` are losses at which multipliers are stated (how many times as much one architecture needs as another).
    With `margin`, there is a test whether exponents differ by less than `margin`.

    >>> rows = [{"arch": a, "n": n, "loss": k * n**-p * (1 + 0.01 * (seed - 1)), "seed": seed}
    ...         for a, k, p in (("one", 40, 0.3), ("two", 60, 0.4)) for n in (1e3, 1e4, 1e5, 1e6) for seed in range(3)]
    >>> comparison = matscale.compare(rows, axis="n")
    >>> comparison.pairs[0].verdict, [rank.architecture for rank in comparison.ranking]
    ('exponents differ', ['two', 'one'])
    >>> [needs] = matscale.compare(rows, axis="n", at_loss=2.0, margin=0.02).pairs[0].multipliers
    >>> needs.what, needs.points[0].loss < 0.7, round(needs.asked[0].value, 1)
    ('parameters', True, 4.4)
    >>> matscale.compare(rows, axis="n", margin=0.02).pairs[0].verdict
    'different'

    Raises ConfigError for an unknown name, for a loss outside the points, and for a margin that is not positive. Raises
    DataError if there are too few sizes.
    """
    from matscale.core.hosting.host import host  # start-up: scipy
    from matscale.core.scaling.comparison.compare import compare as test
    from matscale.core.scaling.fit import read_with_baselines

    table = read_with_baselines(source, columns, target, where, baselines)
    names = [architectures] if isinstance(architectures, str) else architectures
    laws = [law for law in host().laws() if law.axes == ("x",)]
    losses = [at_loss] if isinstance(at_loss, int | float) else list(at_loss)
    return test(table, names, laws, axis=axis, target=target, at=at, at_loss=losses, margin=margin)


def plan(
    source: Source | Fit,
    *,
    flops: str | float | None = None,
    loss: float | None = None,
    architecture: str | None = None,
    device: str | None = None,
    precision: str | None = None,
    mfu: float | None = None,
    target: str = "loss",
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    checkpoint: str = "last",
    samples: int = 1000,
    seed: int = 0,
) -> Plan:
    """Plan model size and data: for the lowest loss at given `flops`, or for a given `loss` at the lowest cost.

    `source` is an argument of `matscale.fit`, or its result for the joint law (law="nd"). `flops` may be a text such as
    "50P". With `device`, the plan states hours on that device; `precision` and `mfu` are the options of
    `matscale plan`.

    >>> rows = [{"n": n, "d": d, "c": 6 * n * d, "loss": 1 + 40 * n**-0.4 + 90 * d**-0.5, "seed": 0}
    ...         for n in (1e3, 4e3, 16e3, 64e3) for d in (1e3, 4e3, 16e3, 64e3)]
    >>> best = matscale.plan(rows, flops="1e11", samples=200)
    >>> round(best.n.value, -3), round(best.d.value, -3), round(best.loss.value, 2)
    (151000.0, 110000.0, 1.61)

    Raises MatscaleError if no joint law can be fitted, and ConfigError for a budget that is too far from the runs, or
    for a loss below the lowest loss that the law can reach.
    """
    from matscale.core.scaling.allocation.plan import make_plan  # start-up: scipy
    from matscale.core.scaling.allocation.speed import speed_on
    from matscale.core.scaling.fit import fit
    from matscale.core.scaling.result import Fit

    if device is None and (precision or mfu):
        raise ConfigError("precision and mfu describe the speed of a device: name it with device=.")
    fitted = source if isinstance(source, Fit) else fit(
        source, "nd", target, columns=columns, where=where, architecture=architecture, baselines=baselines,
        checkpoint=checkpoint, samples=samples, seed=seed,
    )  # fmt: skip
    speed = None if device is None else lambda n: speed_on(device, fitted.table, n, precision, mfu)
    return make_plan(fitted, flops=None if flops is None else _amount(flops), loss=loss, speed=speed)


def _amount(flops: str | float) -> float:

    try:
        return float(parse_count(flops))
    except (ValueError, TypeError, OverflowError):
        raise ConfigError(f"flops = {flops!r}: write for example 1e18 or '50P'.") from None
