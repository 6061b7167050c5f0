"""Configuration of a training run: every key, its default, its unit.

Options override a file given by `--config`, and `--set a.b=c` overrides options; other keys have their defaults. The
result is written to the run folder as `config.toml`; with this file alone, the run can be repeated.
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
"""Type of a time [s], up to 1e10; the clocks of Python end at 1e11 s."""
TERMS = ("energy", "forces", "stress_isotropic", "stress_anisotropic")
LABEL_OF = {"energy": "energy", "forces": "forces", "stress_isotropic": "stress", "stress_anisotropic": "stress"}
"""For each term of the loss, the label that it needs."""


MOST_BATCHES = 1 << 16
"""Largest number of batches whose gradients are added up for one optimizer step."""


class ArchitectureChoice(Config):
    name: str
    """Name of the architecture, one of those in `matscale models list`."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Configuration of the architecture; keys that are not given have its defaults."""


class DataConfig(Config):
    path: Annotated[str, AfterValidator(usable_text)] = "emt"
    """Folder of a packed dataset, or the name of a dataset that matscale can make or download."""
    validation: Fraction = 0.1
    """Share of the structures that is used for validation."""
    split_by: Literal["group", "structure"] = "group"
    """Unit of the split: whole groups (trajectory or reduced formula), or single structures."""
    validation_seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Seed that draws the validation part; default: `seed`.

    Runs need the same value if their losses are to be compared.
    """
    fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of the training part that is used. Smaller shares are subsets of larger ones."""
    count: Positive | None = None
    """Number of training structures that are used, in place of `fraction`."""
    overfit: Annotated[int, Field(ge=0)] = 0
    """Number of training structures on which to train and validate; 0: off.

    This checks that the model can learn.
    """
    in_memory: bool = False
    """Read the whole dataset into memory at the start, in place of mapping its files."""
    cache_graphs: bool = True
    """Store neighbour lists beside the dataset; later epochs and runs read them."""

    check_stress_unit: bool = True
    """Refuse data whose stress looks like GPa or kbar, not eV/Å³."""
    isolated: bool = False
    """Accept structures in which no atom has a neighbour within the cutoff, in training and prediction.

    If this is false, such structures are refused.
    """

    @model_validator(mode="after")
    def _one_size(self) -> DataConfig:
        if self.fraction is not None and self.count is not None:
            raise ValueError("fraction and count both set the size of the training part; give one of them")
        return self


class StartConfig(Config):
    """Fine-tuning: start from weights, scales and references of another run.

    If all of these are taken over, step 0 repeats the predictions of the other run.
    """

    run: Annotated[str, AfterValidator(usable_text)] | None = None
    """Folder of the run to start from; default: none, that is, new weights."""
    checkpoint: str = "best"
    """Checkpoint of the other run to start from: best, last or a step.

    Its averaged weights are used if the other run kept an average.
    """
    partial: bool = False
    """Accept a model that differs from that of the other run.

    Weights that fit by name and shape are used; the others are listed.
    """
    branch: bool = False
    """Continue the training of the other run from the checkpoint, as a new run.

    The new run takes over the optimizer, averages, counts and the position in the data.
    """
    references: Annotated[Literal["keep", "refit"] | None, BeforeValidator(lambda v: None if v == "auto" else v)] = None
    """Element references: `keep` those of the other run, or `refit` them to its model's errors on the new energies.

    Default (or `auto`): refit if that reduces the errors much.
    """

    @model_validator(mode="after")
    def _of_a_run(self) -> StartConfig:
        if self.run is None and (self.partial or self.branch or self.references or self.checkpoint != "best"):
            raise ValueError(
                "partial, branch, references and checkpoint need another run to start from: name it (--from, start.run)"
            )
        if self.references and self.branch:
            raise ValueError("a branch continues from the whole state of the other run; leave out references")
        if self.partial and self.branch:
            raise ValueError("a branch continues from the whole state of the other run; leave out partial")
        return self


PRETEXT_OPTIONS: dict[str, tuple[str, float | int]] = {"denoise": ("sigma", 0.1), "distances": ("partners", 8)}
"""For each pre-training task, its option: (name, default)."""


class PretrainConfig(Config):
    """Pre-training on a task that needs no labels.

    Another run can start from the result by `start.run`.
    """

    task: Literal["distances", "denoise"]
    """Task: `distances` or `denoise`.

    For `distances`, the model learns to predict distances of pairs of atoms from its embeddings; for `denoise`, it
    learns to predict the random displacements of atoms, by its forces.
    """
    sigma: Annotated[float, Field(gt=0, le=1)] | None = None
    """For denoise: standard deviation of each component of the noise [Å]; 0.1 if not given."""
    partners: Annotated[int, Field(ge=1, le=64)] | None = None
    """For distances: number of other atoms of the structure with which each atom forms a pair; 8 if not given."""

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
            f"a step has at most {MOST_BATCHES:,} batches, since all of them are held in memory together; for larger "
            "steps make the batches larger (batch.structures, batch.atoms)"
        )
    return accumulate


class BatchConfig(Config):
    """Size of a batch. A step takes `accumulate` batches, whatever the number of processes, which divide them."""

    structures: Positive | None = None
    """Largest number of structures in a batch; 16 if neither atoms nor edges are limited."""
    atoms: Positive | None = None
    """Largest number of atoms in a batch."""
    edges: Positive | None = None
    """Largest number of edges in a batch."""
    accumulate: Annotated[Positive, AfterValidator(_held_at_once)] = 1
    """Number of batches whose gradients are added up for one optimizer step; at most 65,536."""


class AugmentationConfig(Config):
    rotate: bool | None = None
    """Rotate every training structure at random in every epoch: positions, cell, forces and stress together.

    Default: set by the architecture; off if `data.overfit` is set.
    """
    reflect: bool = False
    """Invert each training structure with probability 1/2 in every epoch, besides rotation."""


class Term(Config):
    weight: Annotated[float, Field(ge=0)]
    """Factor of this term in the loss, for a residual in eV/atom, eV/Å or eV/Å³.

    0 leaves the term out.
    """
    kind: str
    """Name of the loss function: mae, mse, huber, l2, or a name that a plugin supplies."""


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
    """Training loss: by default, that of OMat24. Residuals are in eV/atom, eV/Å and eV/Å³."""

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
        """Settings of the term called `name`, one of `TERMS`."""
        term: Term = getattr(self, name)
        return term

    def needs(self) -> set[str]:
        """Labels that the terms with a non-zero weight need."""
        return {LABEL_OF[name] for name in TERMS if self.term(name).weight > 0}


class OptimizerConfig(Config):
    """AdamW optimizer. Weights of norms, biases and embeddings have no weight decay."""

    lr: Annotated[float, Field(gt=0)] = 1e-3
    """Highest learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-3
    """Weight decay of weight matrices (decoupled): per step, and relative to the learning rate."""
    betas: tuple[Decay, Decay] = (0.9, 0.999)
    """Decay rates (beta1, beta2) of the running means of the gradient and of the squared gradient."""
    eps: Annotated[float, Field(gt=0)] = 1e-8
    """Constant that is added to the square root of the running mean of the squared gradient."""
    clip: Annotated[float, Field(ge=0)] = 10.0
    """Largest norm of the gradient (over all parameters together); 0: no clipping."""
    ema: Decay = 0.999
    """Decay of the exponential moving average of the weights; 0: no average.

    Validation and prediction use the average. At step t the decay is at most (1 + t) / (10 + t), so that the average of
    a short run forgets the initial weights.
    """


class ScheduleConfig(Config):
    kind: Literal["cosine", "wsd", "constant"] = "cosine"
    """Shape of the learning-rate schedule after the warm-up; `wsd` stands for warm-up, stable, decay."""
    warmup: Fraction = 0.01
    """Share of the run in which the learning rate increases linearly, at its start."""
    warmup_factor: Fraction = 0.2
    """Learning rate at the start of the warm-up, relative to `optimizer.lr`."""
    floor: Fraction = 0.01
    """Learning rate at the end of the run, relative to `optimizer.lr`."""
    decay: Fraction = 0.2
    """For `wsd`: share of the run, at its end, in which the learning rate decreases."""
    decay_shape: Literal["1-sqrt", "linear"] = "1-sqrt"
    """For `wsd`: shape of the decrease of the learning rate."""


class BudgetConfig(Config):
    """Length of the training. If several limits are given, the run and its schedule end at the first one reached."""

    epochs: Positive | None = None
    """Number of passes over the training structures; 10 if no limit is given."""
    steps: Positive | None = None
    """Number of optimizer steps."""
    max_time: Seconds | None = None
    """Wall time [s] of the run, summed over its sessions if it is resumed: `90`, `30m` or `2h`."""
    max_flops: Count | None = None
    """FLOPs of training, as counted by the run."""


class EvaluationConfig(Config):
    every: Positive | None = None
    """Optimizer steps between validations; default: validate at the end of epochs (`every_epochs`)."""
    every_epochs: Positive = 1
    """Epochs between validations, if `every` is not given."""
    patience: Positive | None = None
    """Number of successive validations without a better loss after which the run ends.

    Default: no such limit.
    """
    structures: Positive = 32
    """Number of structures in a validation batch; results do not depend on it."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Number of validation structures whose predictions are written to samples.jsonl at every validation."""


class ComputeConfig(Config):
    device: str = "auto"
    """Device: `auto` (a GPU if there is one), `cpu`, `cuda` or, for example, `cuda:1`."""
    precision: Literal["fp32", "tf32", "bf16", "fp16", "fp64"] = "fp32"
    """Precision of the model's arithmetic; losses and metrics are always summed in float64."""
    compile: bool = False
    """Compile the model with torch.compile.

    Only for models with direct forces, since torch.compile does not support second derivatives.
    """
    checkpoint_activations: bool = False
    """Activation checkpointing: store only the inputs of each block, and compute the block again in the backward pass.

    This needs less memory and 15 to 40 % more time.
    """
    sharding: Literal["none", "state"] = "none"
    """For several processes: `state` divides weights, gradients, moments and averages among them (FSDP2).

    Each has the whole weights and gradients only during a step, and the numbers stay the same.
    """
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    """CPU threads of torch; default: OMP_NUM_THREADS, or the number of cores the process may use."""
    timeout: Seconds = 600.0
    """For several processes: wall time [s] for which a process waits for another.

    After this time, the run ends with exit code 6.
    """

    @model_validator(mode="after")
    def _one_who_decides(self) -> ComputeConfig:
        if self.compile and self.checkpoint_activations:
            raise ValueError(
                "torch.compile chooses which activations to compute again: leave out checkpoint_activations"
            )
        if self.sharding == "state" and (self.compile or self.precision == "fp16"):
            raise ValueError(
                'sharding = "state" works neither with compile nor with the gradient scaler of fp16: leave out one of '
                "them (bf16 needs no scaler)"
            )
        return self


class CheckpointConfig(Config):
    every: Positive | None = None
    """Optimizer steps between checkpoints; default: a checkpoint at every validation."""
    keep: Positive = 2
    """Number of latest checkpoints that are kept; the best one is kept in addition."""
    at: tuple[Positive, ...] = ()
    """Steps whose checkpoints are never deleted, so that other runs can start from them as branches."""


class TrainConfig(Config):
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the split, the initial weights, the order of structures, augmentation and dropout."""
    architecture: ArchitectureChoice
    data: DataConfig = DataConfig()
    start: StartConfig = StartConfig()
    pretrain: PretrainConfig | None = None
    """Pre-training on a task without labels; default: none, that is, training on the labels."""
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
    """Number of optimizer steps between rows of training metrics."""
    net_force: Literal["removed"] | None = None
    """Treatment of the net force: `removed` subtracts the mean force of each structure, in training and prediction.

    Direct forces do not sum to zero otherwise; forces that are derivatives of the energy always do.
    """
    skip_nonfinite: Annotated[int, Field(ge=0)] = 0
    """Number of steps with a non-finite loss or gradient that may be skipped.

    One more such step ends the run with exit code 4.
    """
    plugins: tuple[str, ...] = ()
    """Names of plugins that observe the run."""
    trackers: tuple[str, ...] = ()
    """Trackers that receive the metrics of the run: tensorboard, wandb, trackio, or those of plugins."""
    labels: dict[str, str | int | float] = Field(default_factory=dict)
    """Labels that a study gives the run (`study`, `size`, ...). They are copied to run.json; training ignores them."""

    @model_validator(mode="after")
    def _pretraining_is_apart(self) -> TrainConfig:
        if self.pretrain is None:
            return self
        if self.start.run is not None and not self.start.branch:
            raise ValueError("pre-training starts from new weights: leave out --from (start.run), or --pretrain")
        if self.loss != LossConfig():
            raise ValueError("[loss] is for labels, and pre-training has its own loss: leave out [loss] or --pretrain")
        if self.pretrain.task == "distances" and self.compute.compile:
            raise ValueError(
                "--pretrain distances uses embeddings, which compute.compile cannot compile: leave out one of the two"
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


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted key.

    >>> flat({"budget": {"steps": 100}, "seed": 0})
    {'budget.steps': 100, 'seed': 0}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


def differences(a: Mapping[str, Any], b: Mapping[str, Any], prefix: str = "") -> dict[str, tuple[Any, Any]]:
    """Differences of two configurations: for each dotted key, (value in a, value in b).

    A missing value is None.

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
