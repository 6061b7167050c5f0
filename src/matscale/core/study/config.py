"""Study file (`study.toml`): architectures × sizes × data × seeds × learning rates × other keys, and the runs' lengths.

name = "first"
architectures = ["fcn", "schnet"]
params = { from = "3k", to = "100k", rungs = 5 }
data = { path = "emt", fractions = [0.1, 0.3, 1.0] }
seeds = [0, 1]
budget = { epochs = 10 }
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator

from matscale.core.config import Config, override, read_toml
from matscale.core.errors import ConfigError, did_you_mean
from matscale.core.filenames import file_name, usable_path, usable_text
from matscale.core.hosting.host import host
from matscale.core.runs.config import Count, Fraction, Positive, Seconds
from matscale.core.study.launcher import Launcher
from matscale.core.units import LARGEST_MODEL, parse_count


def listed(value: Any) -> Any:
    """Wrap a single value in a list; a list is returned unchanged."""
    return value if isinstance(value, list | tuple) else [value]


Names = Annotated[tuple[str, ...], BeforeValidator(listed)]
Counts = Annotated[tuple[Count, ...], BeforeValidator(listed)]
Parameters = Annotated[float, BeforeValidator(parse_count), Field(ge=1, le=LARGEST_MODEL)]
Positives = Annotated[tuple[Positive, ...], BeforeValidator(listed)]
Rates = tuple[Annotated[float, Field(gt=0)], ...]
"""Learning rates."""


class Ladder(Config):
    """Ladder of model sizes: numbers of parameters at equal ratios, including both ends."""

    smallest: Parameters = Field(alias="from")
    largest: Parameters = Field(alias="to")
    rungs: Annotated[int, Field(ge=1, le=1000)]

    def counts(self) -> list[int]:
        """Numbers of parameters of the rungs."""
        steps = max(self.rungs - 1, 1)
        return [round(self.smallest * (self.largest / self.smallest) ** (k / steps)) for k in range(self.rungs)]


def _ladder(value: Any) -> Any:
    """Parse a table as a ladder, so that an error message is about ladders only."""
    if not isinstance(value, dict):
        return listed(value)
    ladder = Ladder.parse(value, "params")
    if ladder.largest < ladder.smallest or (ladder.rungs > 1) != (ladder.largest > ladder.smallest):
        raise ConfigError(f"params = {value}: a ladder must increase from a number of parameters to a larger one.")
    return ladder


def _rates(value: Any) -> Any:
    return Path(value) if isinstance(value, str) else value if isinstance(value, Path) else listed(value)


def _kind(value: Any) -> str:
    return "ladder" if isinstance(value, Ladder) else "file" if isinstance(value, Path) else "list"


# The tag decides between the two forms first, so that an error is about the form that the user meant.
Params = Annotated[
    Annotated[Ladder, Tag("ladder")] | Annotated[tuple[Parameters, ...], Tag("list")],
    Discriminator(_kind),
    BeforeValidator(_ladder),
]
LearningRate = Annotated[
    Annotated[Rates, Tag("list")] | Annotated[Path, Tag("file")],
    Discriminator(_kind),
    BeforeValidator(_rates),
]
"""One learning rate, several, or a file with a learning-rate law that `matscale tune` wrote."""


class ArchitectureGrid(Config):
    name: str
    """Name of the architecture: `matscale models list` shows all."""
    variant: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+-]+$", max_length=60)] | None = None
    """Suffix that distinguishes entries of one architecture in names of runs and in laws: `OC` gives `gemnet-OC`."""
    sizes: Names = ()
    """Published configurations by name."""
    params: Params | None = None
    """Rungs of the size ladder: a list such as ["3k", "30k"], or a table of from, to and rungs.

    Default: those of the study.
    """
    lr: LearningRate | None = None
    """Learning rates of this architecture; default: those of the study."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the training configuration for this architecture; they override those of the study."""


class DataGrid(Config):
    path: Annotated[str, AfterValidator(usable_text)] = "emt"
    """Packed dataset, or the name of a dataset that matscale can make or download."""
    fractions: Annotated[tuple[Annotated[Fraction, Field(gt=0)], ...], BeforeValidator(listed)] = ()
    """Shares of the training part; smaller shares are subsets of larger ones."""
    counts: Positives = ()
    """Numbers of training structures, instead of `fractions` or in addition to them."""
    validation_seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed that draws the validation part, the same for all runs whatever their own seed."""


class BudgetGrid(Config):
    """Budget of each run; a list of lengths adds a dimension to the grid."""

    epochs: Positives = ()
    """Passes over the training structures."""
    steps: Positives = ()
    """Optimizer steps."""
    flops: Counts = ()
    """Training FLOPs of each run, for isoFLOP sets: each size takes the number of steps that these FLOPs allow."""
    least_steps: Positive = 1
    """Least number of steps of a run whose length `flops` sets: shorter runs are left out of the grid and listed.

    With 1, a run of less than one step is an error.
    """
    max_time: Seconds | None = None
    """Wall time [s] at which every run stops, whatever its other limits."""

    @model_validator(mode="after")
    def _one(self) -> BudgetGrid:
        if sum(map(bool, (self.epochs, self.steps, self.flops))) > 1:
            raise ValueError("epochs, steps and flops each set the length of a run; give one of them")
        return self


class CooldownGrid(Config):
    """Cooldowns: one long run at a constant learning rate (the trunk), and a branch with a cooldown for each length."""

    steps: Positives
    """Lengths of the branches in optimizer steps, counted from the beginning of the trunk."""
    decay: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each run, at its end, in which the learning rate decreases."""
    warmup: Annotated[int, Field(ge=0)] | None = None
    """Steps of warm-up for all runs; default: a hundredth of the longest."""


class Study(Config):
    name: Annotated[str, AfterValidator(file_name)]
    """Name of the study; its folder is `studies/<name>`."""
    output: Annotated[Path, AfterValidator(usable_path)] | None = None
    """Folder of the study; default: `studies/<name>`."""
    architectures: Annotated[
        tuple[Annotated[ArchitectureGrid, BeforeValidator(lambda v: _named(v))], ...], BeforeValidator(listed)
    ]
    sizes: Names = ()
    """Published configurations, for architectures without sizes of their own."""
    params: Params | None = None
    """Rungs of the size ladder, for architectures without sizes of their own."""
    data: DataGrid = DataGrid()
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], BeforeValidator(listed)] = (0,)
    """Seeds of the runs, for initialisation, order of structures, dropout and the choice of training subsets."""
    lr: LearningRate | None = None
    """Peak learning rates; default: that of the training configuration."""
    budget: BudgetGrid = BudgetGrid()
    wsd: CooldownGrid | None = None
    """Cooldowns that branch off one long run, in place of a budget."""
    set: dict[str, Any] = Field(default_factory=dict)
    """Keys of the training configuration that all runs share."""
    grid: dict[str, Any] = Field(default_factory=dict)
    """Keys of the training configuration, each with a list of values; each key adds a dimension to the grid."""
    max_runs: Positive = 10_000
    """Largest number of runs of the grid; a larger grid is refused before any run is planned."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Number of times that a sweep restarts a run that was interrupted for an outside reason."""
    launchers: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options of launchers: the tables of the study file that have a launcher's name."""

    @model_validator(mode="after")
    def _lengths(self) -> Study:
        if self.wsd is not None and self.budget.model_fields_set:
            raise ValueError("wsd.steps sets the lengths of the runs; leave out budget")
        return self

    @property
    def folder(self) -> Path:
        return self.output or Path("studies") / self.name

    @classmethod
    def read(cls, path: Path, assignments: Iterable[str] = ()) -> Study:
        """Read a study file, with `KEY=VALUE` of the command line on top; its paths are relative to its folder.

        Raises ConfigError, which suggests the nearest valid name for an unknown one.
        """
        values = override({"name": path.stem, **read_toml(path)}, assignments)
        study = cls.parse(_with_launchers(values, path), str(path))
        empty = [key for key, value in _dimensions(study).items() if not value]
        if empty:
            raise ConfigError(f"{path}: the grid is empty: {', '.join(empty)} has no value. Give one, or leave it out.")
        return study.beside(path)

    def beside(self, path: Path) -> Study:
        """Resolve the paths of learning-rate laws relative to the folder of the study file."""
        grids = tuple(grid.model_copy(update={"lr": _from(path, grid.lr)}) for grid in self.architectures)
        return self.model_copy(update={"architectures": grids, "lr": _from(path, self.lr)})


def _named(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _from(file: Path, lr: Any) -> Any:
    return file.parent / lr if isinstance(lr, Path) and not lr.is_absolute() else lr


def _with_launchers(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Move tables with a launcher's name to `launchers` and check them.

    Raises ConfigError for any other unknown key.
    """
    fields = [field for field in Study.model_fields if field != "launchers"]
    known = {key: value for key, value in values.items() if key in fields}
    options = {key: value for key, value in values.items() if key not in fields}
    for key, table in options.items():
        launcher = _launcher(key, path, fields)
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {key} = {table!r}: expected a table with options of the launcher: [{key}].")
        launcher.options.parse(table, f"{path}: {key}")
    return {**known, "launchers": options}


def _launcher(key: str, path: Path, fields: list[str]) -> Launcher:
    """Find the launcher whose table is called `key`. Raises ConfigError for an unknown key."""
    try:
        return host().launcher(key)
    except ConfigError:
        launchers = [launcher.name for launcher in host().launchers()]
        raise ConfigError(f"{path}: unknown key {key!r}. {did_you_mean(key, [*fields, *launchers])}") from None


def _dimensions(study: Study) -> dict[str, Any]:
    """Values of the dimensions of the grid that must not be empty, by the name of the dimension."""
    given = study.model_fields_set
    found: dict[str, Any] = {"architectures": study.architectures, "seeds": study.seeds}
    found |= {key: getattr(study, key) for key in ("sizes", "params") if key in given}
    for grid in study.architectures:
        found |= {f"{key} of {grid.name}": getattr(grid, key) for key in grid.model_fields_set - {"name", "set"}}
    for name, section in (("data", study.data), ("budget", study.budget), ("wsd", study.wsd)):
        if section is not None:
            keys = section.model_fields_set & {"fractions", "counts", "epochs", "steps", "flops"}
            found |= {f"{name}.{key}": getattr(section, key) for key in keys}
    return found | {"lr": True if study.lr is None else study.lr}
