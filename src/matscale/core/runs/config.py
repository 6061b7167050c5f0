"""Configuration of one training run: every key, its default, its unit.

Precedence: defaults < `--config FILE` < options < `--set a.b=c`. The result is written to the run folder as
`config.toml`; this file alone repeats the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from matscale.core.config import Config
from matscale.core.filenames import usable_text
from matscale.core.units import parse_count, parse_seconds

Positive = Annotated[int, Field(ge=1, le=10**15)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[float, BeforeValidator(parse_count), Field(gt=0)]
Seconds = Annotated[float, BeforeValidator(parse_seconds), Field(gt=0, le=1e10)]
"""At most what waiting takes: the clocks of Python end at 10^11 s."""
TERMS = ("energy", "forces", "stress_isotropic", "stress_anisotropic")
LABEL_OF = {"energy": "energy", "forces": "forces", "stress_isotropic": "stress", "stress_anisotropic": "stress"}
"""Term -> the label that it needs."""


MOST_BATCHES = 1 << 16
"""Batches of one optimizer step."""


class ArchitectureChoice(Config):
    name: str
    """Family of models: `matscale models list`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Its configuration; keys left out have the architecture's defaults."""


class DataConfig(Config):
    path: Annotated[str, AfterValidator(usable_text)] = "emt"
    """A packed dataset, or the name of one that matscale can make or fetch."""
    validation: Fraction = 0.1
    """Share of the structures that are kept for validation."""
    split_by: Literal["group", "structure"] = "group"
    """Unit of the split: whole groups (trajectory or reduced formula), or single structures."""
    validation_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed that draws the validation part; none: `seed`. Runs whose losses are compared need the same one."""
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training part that is used; a smaller one is a subset of a larger one."""
    count: Positive | None = None
    """Number of training structures that are used (instead of `fraction`)."""
    overfit: Annotated[int, Field(ge=0)] = 0
    """Train and validate on this many structures of the training part: a check that the model can learn. 0: off."""
    in_memory: bool = False
    """Read the whole dataset into memory at the start instead of mapping its files."""
    cache_graphs: bool = True
    """Keep the neighbour lists beside the dataset, so that later epochs and runs read them."""

    check_stress_unit: bool = True
    """Refuse a stress that looks like GPa or kbar instead of eV/Å³."""
    isolated: bool = False
    """Learn from structures in which no atom has a neighbour within the cutoff, and predict such; else refuse them."""

    @model_validator(mode="after")
    def _one_size(self) -> DataConfig:
        if self.fraction is not None and self.count is not None:
            raise ValueError("fraction and count are two ways to say the same; give one of them")
        return self


class StartConfig(Config):
    """Fine-tuning: weights, scales and references of another run, so that both runs predict the same at step 0."""

    run: Annotated[str, AfterValidator(usable_text)] | None = None
    """Folder of the run to begin with; none: new weights."""
    checkpoint: str = "best"
    """Checkpoint of that run: best, last or a step. Averaged weights are taken where the run kept an average."""
    partial: bool = False
    """Take what fits by name and shape and list what does not, rather than to refuse a model that differs."""
    branch: bool = False
    """Continue the other run from the checkpoint, with its optimizer, averages, counts and place in the data."""
    references: Annotated[Literal["keep", "refit"] | None, BeforeValidator(lambda v: None if v == "auto" else v)] = None
    """Element references: those of the other run (`keep`), or corrected by what its predictions leave of the new
    energies (`refit`). None, or `auto`: refit if that leaves much less."""

    @model_validator(mode="after")
    def _of_a_run(self) -> StartConfig:
        if self.run is None and (self.partial or self.branch or self.references or self.checkpoint != "best"):
            raise ValueError(
                "partial, branch, references and checkpoint say how to begin with another run: name it (--from, "
                "start.run)"
            )
        if self.references and self.branch:
            raise ValueError("a branch takes the whole state of the other run; leave out references")
        if self.partial and self.branch:
            raise ValueError("a branch takes the whole state of the other run; leave out partial")
        return self


PRETEXT_OPTIONS: dict[str, tuple[str, float | int]] = {"denoise": ("sigma", 0.1), "distances": ("partners", 8)}
"""Pre-training task -> (its option, the default of that option)."""


class PretrainConfig(Config):
    """Pre-training on a task that needs no labels; another run begins with the result by `start.run`."""

    task: Literal["distances", "denoise"]
    """Predict distances of pairs from embeddings, or the noise that was put on positions, through the forces."""
    sigma: Annotated[float, Field(gt=0, le=1)] | None = None
    """For denoise: standard deviation of each component of the noise [Å]; 0.1 if not given."""
    partners: Annotated[int, Field(ge=1, le=64)] | None = None
    """For distances: number of other atoms of its structure that each atom is paired with; 8 if not given."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        values = {"task": values} if isinstance(values, str) else values
        if not isinstance(values, Mapping):
            return values
        name, default = PRETEXT_OPTIONS.get(str(values.get("task")), ("", 0))
        return {name: default, **values} if name else values

    @model_validator(mode="after")
    def _own_options(self) -> PretrainConfig:
        for task, (name, _) in PRETEXT_OPTIONS.items():
            if task != self.task and getattr(self, name) is not None:
                raise ValueError(f"{name} is an option of {task}, not of {self.task}; leave it out")
        return self


def _held_at_once(accumulate: int) -> int:
    if accumulate > MOST_BATCHES:
        raise ValueError(
            f"the batches of a step are held in memory together, so at most {MOST_BATCHES:,} make one; for larger "
            "steps let a batch hold more (batch.structures, batch.atoms)"
        )
    return accumulate


class BatchConfig(Config):
    """Size of the batch on one process. The global batch is this × accumulate × processes; the run prints its size."""

    structures: Positive | None = None
    """At most so many structures in a batch; 16 if no limit is given."""
    atoms: Positive | None = None
    """At most so many atoms in a batch."""
    edges: Positive | None = None
    """At most so many edges in a batch."""
    accumulate: Annotated[Positive, AfterValidator(_held_at_once)] = 1
    """Batches whose gradients make one optimizer step; at most 65,536."""


class AugmentationConfig(Config):
    rotate: bool | None = None
    """Turn every training structure at random in every epoch: positions, cell, forces and stress together. None: as the
    architecture wants it; not in an overfit check."""
    reflect: bool = False
    """Mirror every other structure as well."""


class Term(Config):
    weight: Annotated[float, Field(ge=0)]
    """Factor in the objective, per eV/atom, eV/Å or eV/Å³ of the residual; 0 leaves the term out."""
    kind: str
    """Name of a loss: mae, mse, huber, l2, or a plugin's."""


class EnergyTerm(Term):
    weight: Annotated[float, Field(ge=0)] = 2.5
    kind: str = "mae"


class ForcesTerm(Term):
    weight: Annotated[float, Field(ge=0)] = 20.0
    kind: str = "l2"


class StressTerm(Term):
    weight: Annotated[float, Field(ge=0)] = 5.0
    kind: str = "mae"


class LossConfig(Config):
    """OMat24's loss by default. Residuals are in eV/atom, eV/Å and eV/Å³."""

    energy: EnergyTerm = EnergyTerm()
    forces: ForcesTerm = ForcesTerm()
    stress_isotropic: StressTerm = StressTerm()
    stress_anisotropic: StressTerm = StressTerm()

    @model_validator(mode="after")
    def _something_to_learn(self) -> LossConfig:
        if not any(self.term(name).weight for name in TERMS):
            raise ValueError("every term has weight 0: nothing would be learned")
        return self

    def term(self, name: str) -> Term:
        """Return the term called `name`, one of `TERMS`."""
        term: Term = getattr(self, name)
        return term

    def needs(self) -> set[str]:
        """Labels that the terms with a weight need."""
        return {LABEL_OF[name] for name in TERMS if self.term(name).weight > 0}


class OptimizerConfig(Config):
    """AdamW. The decay spares norms, biases and embeddings."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Decoupled decay of weight matrices, per step and unit of learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay of the running mean and of the running square of the gradient."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the root of the running square."""
    clip: Annotated[float, Field(ge=0)] = 10.0
    """Largest norm of the whole gradient; 0: no clipping."""
    ema: Decay = 0.999
    """Decay of the exponential moving average of the weights that validation and use see; 0: none.
    In step t it is at most (1 + t) / (10 + t), so that short runs do not average over their beginning."""


class ScheduleConfig(Config):
    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    """Shape of the learning rate after the warm-up; `wsd` is warm-up, stable, decay."""
    warmup: Fraction = 0.01
    """Share of the run in which the learning rate rises linearly."""
    warmup_factor: Fraction = 0.2
    """Learning rate at the start of the warm-up, as a share of `optimizer.lr`."""
    floor: Fraction = 0.01
    """Learning rate at the end of the run, as a share of `optimizer.lr`."""
    decay: Fraction = 0.2
    """For `wsd`: share of the run, at its end, in which the learning rate falls."""
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """For `wsd`: shape of the fall of the learning rate."""


class BudgetConfig(Config):
    """Length of the training. Of several budgets, the first one used up ends the run and its schedule."""

    epochs: Positive | None = None
    """Passes over the training structures; 10 if no budget is given."""
    steps: Positive | None = None
    """Optimizer steps."""
    max_time: Seconds | None = None
    """Wall time [s] of the whole run, over all its sessions; `90`, `30m`, `2h`."""
    max_flops: Count | None = None
    """Counted training FLOPs."""


class EvaluationConfig(Config):
    every: Positive | None = None
    """Optimizer steps between validations; none: at the end of epochs, as `every_epochs` says."""
    every_epochs: Positive = 1
    """Epochs between validations, if `every` is not given."""
    patience: Positive | None = None
    """End the run after so many validations in a row without a better loss; none: never."""
    structures: Positive = 32
    """Structures in a validation batch; the results do not depend on it."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Validation structures whose predictions are kept at every validation, in samples.jsonl."""


class ComputeConfig(Config):
    device: str = "auto"
    """`auto` takes a GPU if there is one; else `cpu`, `cuda`, `cuda:1`."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] = "fp32"
    """Arithmetic of the model; losses and metrics are summed in float64 whatever it is."""
    compile: bool = False
    """Compile the model (direct forces only: torch.compile does not differentiate what it compiled a second time)."""
    checkpoint_activations: bool = False
    """Keep the inputs of each block only and run it again in the backward: less memory, 15 to 40 % more time."""
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of torch; none: one per core that the process may use, or OMP_NUM_THREADS."""
    timeout: Seconds = 600.0
    """With several processes: wall time [s] to wait for another one before the run ends with exit code 6."""

    @model_validator(mode="after")
    def _one_who_decides(self) -> ComputeConfig:
        if self.compile and self.checkpoint_activations:
            raise ValueError("compile decides by itself what is computed again: leave out checkpoint_activations")
        return self


class CheckpointConfig(Config):
    every: Positive | None = None
    """Optimizer steps between checkpoints; none: one at every validation."""
    keep: Positive = 2
    """Number of latest checkpoints that are kept, besides the best."""
    at: tuple[Positive, ...] = ()
    """Steps whose checkpoints are kept for good, for other runs to branch off."""


class TrainConfig(Config):
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of split, initialisation, order, augmentation and dropout."""
    architecture: ArchitectureChoice
    data: DataConfig = DataConfig()
    start: StartConfig = StartConfig()
    pretrain: PretrainConfig | None = None
    """Pre-training on a task without labels; none: train on energies, forces and stress."""
    batch: BatchConfig = BatchConfig()
    augmentation: AugmentationConfig = AugmentationConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    budget: BudgetConfig = BudgetConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    compute: ComputeConfig = ComputeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    log_every: Positive = 10
    """Optimizer steps between rows of training metrics."""
    net_force: Literal["removed"] | None = None
    """`removed`: the mean is taken off the predicted forces of each structure, in training and in use. Direct forces do
    not sum to zero by themselves; those by derivative do."""
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """Steps with a non-finite loss or gradient that may be left out; one more ends the run with exit 4."""
    plugins: tuple[str, ...] = ()
    """Names of plugins that watch the run."""
    trackers: tuple[str, ...] = ()
    """Trackers that receive the metrics of the run: tensorboard, wandb, trackio, or a plugin's."""
    labels: dict[str, str | int | float] = Field(default_factory=dict)
    """Labels that a study gives the run (`study`, `size`, ...). They are copied to run.json and do nothing else."""

    @model_validator(mode="after")
    def _pretraining_is_apart(self) -> TrainConfig:
        if self.pretrain is None:
            return self
        if self.start.run is not None and not self.start.branch:
            raise ValueError("pre-training begins with new weights: leave out --from (start.run), or --pretrain")
        if self.loss != LossConfig():
            raise ValueError(
                "pre-training has a loss of its own, and [loss] is for labels: leave out loss, or --pretrain"
            )
        if self.pretrain.task == "distances" and self.compute.compile:
            raise ValueError(
                "--pretrain distances reads embeddings only, which compute.compile does not compile: leave one out"
            )
        return self


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `over` into `base`, section by section.

    >>> merged({"budget": {"steps": 100}, "seed": 0}, {"budget": {"max_time": "1h"}})
    {'budget': {'steps': 100, 'max_time': '1h'}, 'seed': 0}
    """
    result = dict(base)
    for key, value in over.items():
        inner = result.get(key)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        result[key] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return result


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Differences of two configurations: dotted key -> (value in a, value in b); None where a key is missing.

    >>> differences({"budget": {"steps": 100}, "seed": 0}, {"budget": {"steps": 200}, "seed": 0})
    {'budget.steps': (100, 200)}
    """
    found: dict[str, tuple[Any, Any]] = {}
    for key in sorted({*a, *b}):
        left, right = a.get(key), b.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            found |= differences(left, right, f"{prefix}{key}.")
        elif left != right:
            found[prefix + key] = (left, right)
    return found
