"""Simulations: the same experiment many times, from one stream of random numbers, and what came of it in shares."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator

import numpy as np


class Outcomes:
    """Outcomes of `reps` simulations. It is iterated over for the random numbers of each, and told what came of it."""

    def __init__(self, reps: int, seed: int) -> None:
        self.reps, self.seed = reps, seed
        self.values = defaultdict[str, list[float]](list)
        self.words = Counter[str]()

    def __iter__(self) -> Iterator[np.random.Generator]:
        rng = np.random.default_rng(self.seed)
        for _ in range(self.reps):
            yield rng

    def saw(self, **values: float) -> None:
        """Add one value of each name: whether something was so, or a number."""
        for name, value in values.items():
            self.values[name].append(float(value))

    def percent(self, name: str) -> float:
        """Share of the simulations that said whether it was so in which it was; NaN where none did."""
        return 100 * self.mean(name)

    def mean(self, name: str) -> float:
        return float(np.mean(self.values[name])) if self.values[name] else float("nan")

    def median(self, name: str) -> float:
        return float(np.median(self.values[name])) if self.values[name] else float("nan")

    def said(self) -> str:
        """Share of each word of `words`, the commonest first: `law 90 %, rejected 10 %`."""
        return ", ".join(f"{word} {100 * n / self.reps:.0f} %" for word, n in self.words.most_common())


def main(description: str | None, tasks: dict[str, Callable[[int], None]], reps: int) -> None:
    """Run the task that the command line names, `reps` times unless it says otherwise."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--reps", type=int, default=reps)
    given = parser.parse_args()
    tasks[given.task](given.reps)
