"""Cost of the accounting of FLOPs: at the start of a run, and in every step. Wanted: less than 1 % of training.

    python benchmarks/flops.py [--data emt] [--batch 16]

A step is timed as the trainer does it. The accounting of a step is the shape of its batch and the formula (or the
polynomial) of its cost, both of which are timed by themselves, alternating with the steps.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import islice

import torch
from machine import machine

from matscale.core.flops import cost_of, peak_of
from matscale.core.hosting.host import get, host
from matscale.core.runs.config import TrainConfig
from matscale.core.train.learner import Learner
from matscale.core.train.loss import LabelObjective
from matscale.core.train.optimizer.accumulation import Accumulation, StepBatches
from matscale.core.train.processes.world import World
from matscale.core.train.session import cost_of_setup, probes_of_setup
from matscale.core.train.setup import prepare, resolved

CASES = [("fcn", 3_000), ("transformer", 3_000), ("schnet", 10_000), ("eqv2", 3_000)]
"""Small models: the accounting weighs most where a step is short."""
CPU = torch.device("cpu")


def seconds(what: Callable[..., object], *arguments: object) -> float:
    began = time.perf_counter()
    what(*arguments)
    return time.perf_counter() - began


def case(name: str, n_params: int, data: str, batch: int, steps: int = 12) -> str:
    architecture = get(name)
    values = {
        "architecture": {"name": name, "config": architecture.ladder(n_params).plain()},
        "data": {"path": data},
        "batch": {"structures": batch},
        "compute": {"device": "cpu"},
    }
    config = resolved(TrainConfig.parse(values), architecture)
    setup = prepare(config, architecture)
    potential = setup.potential()
    probes = probes_of_setup(setup, CPU)
    start = seconds(lambda: cost_of_setup(setup, potential, CPU))
    fitted = seconds(lambda: cost_of(potential, probes))
    cost = cost_of_setup(setup, potential, CPU)
    learner = Learner(potential, config, LabelObjective(config.loss, host().loss), CPU, World())
    groups = Accumulation(setup.training_loader(), 1, CPU, learner.objective).groups(0, 0)
    step, accounting = [], []

    def train(group: StepBatches) -> None:
        learner.update(learner.gradient(group.batches, group.labelled), 1e-3, 1)

    def account(group: StepBatches) -> None:
        cost.step(group.batches[0].shape)

    for group in islice(groups, steps):
        step.append(seconds(train, group))
        accounting.append(min(seconds(account, group) for _ in range(5)))
    a, s = statistics.median(accounting[2:]), statistics.median(step[2:])
    share = 100 * a / s
    return f"| `{name}` | {n_params:,} | {start:.2f} | {fitted:.2f} | {1e3 * s:.1f} | {1e6 * a:.0f} | {share:.2f} % |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="emt")
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args()
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads.")
    print(f"Peak of this CPU in fp32, measured: {peak_of(CPU, 'fp32').flops_per_s:.3g} FLOP/s.\n")
    print("| | parameters | start, formula [s] | start, fit [s] | step [ms] | accounting [µs] | share |")
    print("|---|---|---|---|---|---|---|")
    for name, n_params in CASES:
        print(case(name, n_params, arguments.data, arguments.batch), flush=True)


if __name__ == "__main__":
    main()
