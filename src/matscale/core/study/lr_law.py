"""A rule for the learning rate of a size, LR(N) = a N^b, as `matscale tune` writes it and a study reads it.

[schnet]
a = 0.31            # learning rate at N = 1
b = -0.33           # exponent
parameters = "non_embedding"
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from matscale.core.config import Config, read_toml, to_toml
from matscale.core.errors import ConfigError, did_you_mean
from matscale.core.files import write_text


class Rule(Config):
    """LR(N) of one architecture, and what it rests on.

    >>> rule = Rule(a=0.31, b=-0.33)
    >>> rule.lr(10_000), rule.lr(1_000_000)
    (0.0148, 0.00325)
    """

    a: Annotated[float, Field(gt=0)]
    """Learning rate at N = 1."""
    b: float
    """Exponent b."""
    parameters: Literal["non_embedding", "total"] = "non_embedding"
    """Parameters that N counts."""
    interval: tuple[float, float] | None = None
    """95 % interval of b, by Student's t on the sizes; none for fewer than three."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Structures in a batch that were best, if they were tuned too; a study takes them unless it says otherwise."""
    tried: tuple[dict[str, Any], ...] = ()
    """Per size: parameters, best learning rate, loss there, and by how much it rises at half and at twice the rate."""

    def lr(self, n: int) -> float:
        """Learning rate for N parameters, to three digits: as many as such a rule can mean.

        Raises ConfigError where that is no positive number.
        """
        try:
            lr = float(f"{self.a * n**self.b:.3g}")
        except OverflowError:
            lr = math.inf
        if not 0 < lr < math.inf:
            raise ConfigError(f"a = {self.a:g}, b = {self.b:g}: the learning rate of {n:,} parameters is {lr}.")
        return lr


def read_rule(path: Path, architecture: str) -> Rule:
    """The rule of an architecture. Raises ConfigError if the file has none for it."""
    values = read_toml(path)
    if architecture not in values:
        raise ConfigError(
            f"{path}: has no learning rate for {architecture!r}. {did_you_mean(architecture, values)} "
            f"`matscale tune --arch {architecture} -o {path}` adds it."
        )
    return Rule.parse(values[architecture], f"{path}: {architecture}")


def write_rule(path: Path, architecture: str, rule: Rule) -> None:
    """Add the rule of an architecture to a file, or replace it; those of others stay."""
    values = read_toml(path) if path.exists() else {}
    write_text(path, to_toml({**values, architecture: rule.plain()}))
