"""Law of the learning rate, LR(N, D) = a N^b D^c, as `matscale tune` writes it and a study reads it.

[schnet]
a = 0.31            # learning rate at N = D = 1
b = -0.33           # exponent of N, the parameters
c = 0.12            # exponent of D, the structures that a run sees; left out if it was not tuned
parameters = "non_embedding"

[schnet.batch_law]  # structures in a batch, if both were tuned
a = 0.05
b = 0.0
c = 0.5
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from matscale.core.config import Config, read_toml, to_toml
from matscale.core.errors import ConfigError, did_you_mean
from matscale.core.files import write_text
from matscale.core.runs.config import BudgetConfig

MOST_STRUCTURES = 1e9
"""Largest batch that a law may give, in structures; a larger one shows that the law is wrong."""


class Power(Config):
    """Power law a N^b D^c of a hyperparameter in parameters N and data D, with intervals and the verdict on the fit."""

    a: Annotated[float, Field(gt=0)]
    """Value at N = D = 1."""
    b: float
    """Exponent of N, the parameters."""
    c: float = 0.0
    """Exponent of D, the structures that a run sees; 0 for no dependence."""
    interval: tuple[float, float] | None = None
    """95 % interval of b, by Student's t with the sizes as observations; None for fewer than three sizes."""
    interval_c: tuple[float, float] | None = None
    """95 % interval of c."""
    verdict: str = ""
    """Verdict on the fit: `law`, `rejected` or `incomplete design`; empty in files of older versions."""
    reasons: tuple[str, ...] = ()

    def at(self, n: int, d: float | None) -> float:
        """Value for N parameters and D structures seen. Raises ConfigError if the law needs D and it is None."""
        if self.c and d is None:
            raise ConfigError(
                "the law of the learning rate needs the number of structures that a run sees: give the budget in "
                "epochs or steps."
            )
        try:
            value: float = self.a * float(n) ** self.b * (d or 1.0) ** self.c
        except OverflowError:
            value = math.inf
        return value


class LRLaw(Power):
    """Laws of the learning rate and the batch size of one architecture, with the runs to which they were fitted.

    >>> lr_law = LRLaw(a=0.31, b=-0.33)
    >>> lr_law.lr(10_000), lr_law.lr(1_000_000)
    (0.0148, 0.00325)
    """

    parameters: Literal["non_embedding", "total"] = "non_embedding"
    """Kind of parameters that N counts."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Best number of structures in a batch, if it was tuned too; used unless the study sets the batch size."""
    batch_law: Power | None = None
    """Law of the number of structures in a batch, if it was tuned for several sizes and amounts of data."""
    tried: tuple[dict[str, Any], ...] = ()
    """Per size: parameters, best learning rate, its loss, and the factors on the loss at half and at twice the rate."""

    @property
    def asks_for_data(self) -> bool:
        """Whether the law depends on the number of structures that a run sees."""
        return self.c != 0 or self.batch_law is not None

    def lr(self, n: int, d: float | None = None) -> float:
        """Learning rate for N parameters and D structures seen, rounded to three digits.

        Raises ConfigError if the law gives no positive number.
        """
        value = self.at(n, d)
        lr = float(f"{value:.3g}") if math.isfinite(value) else value
        if not 0 < lr < math.inf:
            raise ConfigError(
                f"a = {self.a:g}, b = {self.b:g}: the learning rate for {n:,} parameters is {lr}, not positive."
            )
        return lr

    def structures(self, n: int, d: float | None = None) -> int | None:
        """Batch size in structures for N parameters and D structures seen.

        It is `batch` if there is no law for the batch size.
        """
        if self.batch_law is None:
            return self.batch
        value = self.batch_law.at(n, d)
        if not 0.5 <= value < MOST_STRUCTURES:
            raise ConfigError(f"a = {self.batch_law.a:g}: the batch for {n:,} parameters is {value:.3g} structures.")
        return max(1, round(value))


def structures_seen(budget: BudgetConfig, n_train: int, batch: int | None) -> float | None:
    """Number of structures that a run sees; None if its budget does not determine it.

    `batch` is the number of structures per step.

    >>> structures_seen(BudgetConfig(epochs=4), n_train=900, batch=None)
    3600.0
    """
    if budget.max_flops is not None or budget.max_time is not None:
        return None
    of_steps = None if budget.steps is None or batch is None else float(budget.steps * batch)
    of_epochs = None if budget.epochs is None else float(budget.epochs * n_train)
    if budget.steps is not None and of_steps is None:
        return None
    return min((value for value in (of_steps, of_epochs) if value is not None), default=None)


def read_lr_law(path: Path, architecture: str) -> LRLaw:
    """Read the law of an architecture. Raises ConfigError if the file has no law for it."""
    values = read_toml(path)
    if architecture not in values:
        raise ConfigError(
            f"{path}: has no learning rate for {architecture!r}. {did_you_mean(architecture, values)} "
            f"`matscale tune --arch {architecture} -o {path}` adds it."
        )
    return LRLaw.parse(values[architecture], f"{path}: {architecture}")


def write_lr_law(path: Path, architecture: str, lr_law: LRLaw) -> None:
    """Write the law of an architecture to a file, in place of an earlier one; laws of other architectures are kept."""
    values = read_toml(path) if path.exists() else {}
    write_text(path, to_toml({**values, architecture: lr_law.plain()}))
