"""Kill a training run at random moments, resume it each time, and compare it with one that was never touched.

    OMP_NUM_THREADS=1 python benchmarks/kill.py --kills 200

Each child trains the tiny model of tests/core/train for a random time and is then ended with SIGKILL, be it in a step,
in a validation or in the middle of writing a checkpoint. After every kill the run must be readable and must have lost
nothing that was complete. When enough kills are done, the last child trains to the end: its metrics and weights must be
those of the unbroken run, bit for bit. Exit code 1, with what differs, if they are not.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "core" / "train"))
import tiny

from matscale.core.train import checkpoint
from matscale.core.train.config import TrainConfig
from matscale.core.train.record import CONFIG, TIMINGS, Run
from matscale.core.train.session import train

STEPS_PER_KILL = 4


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--seed", type=int, default=0)
    arguments = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        return _compare(Path(folder), arguments.kills, random.Random(arguments.seed))


def _compare(folder: Path, kills: int, chance: random.Random) -> int:
    data = tiny.make_dataset(folder / "data").path
    steps = max(60, 2 * STEPS_PER_KILL * kills)  # twice what is likely to be needed: how fast a machine is varies
    every = ("checkpoint.every=2", "log_every=1", "evaluation.every=5")
    config = tiny.configured(data, f"budget.steps={steps}", *every)
    began = time.perf_counter()
    unbroken = train(config, folder / "unbroken", architecture=tiny.architecture())
    per_step = (time.perf_counter() - began) / steps
    done, in_save, last = 0, 0, 0
    while done < kills:
        child = _child(config, folder / "run")
        slept = chance.uniform(0.0, 0.1 + 2 * STEPS_PER_KILL * per_step)
        time.sleep(slept)
        os.kill(child, signal.SIGKILL)
        killed = os.WIFSIGNALED(os.waitpid(child, 0)[1])
        if not killed:
            break  # it had come to its end: the machine became much faster meanwhile
        done += 1
        in_save += bool(list((folder / "run" / "checkpoints").glob(f".*partial-{child}*")))
        if (folder / "run" / CONFIG).exists():
            now = Run.open(folder / "run").last or 0
            if now > last:  # a machine that became faster would use up all steps before the last kill
                per_step = min(per_step, slept / (now - last))
            last = now
    status = os.waitpid(_child(config, folder / "run"), 0)[1]
    if status != 0:
        print(f"the last session ended with status {status}")
        return 1
    difference = _difference(Run.open(folder / "run"), unbroken)
    print(f"{done} kills over {steps} steps, {in_save} amid a checkpoint: {difference or 'equal to the unbroken run'}")
    return 1 if difference or 2 * done < kills else 0


def _child(config: TrainConfig, path: Path) -> int:
    """Train in a forked process, which has everything imported already; returns its id."""
    child = os.fork()
    if child:
        return child
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a damaged checkpoint would be one that a kill had made
            train(config, path, resume=(path / CONFIG).exists(), architecture=tiny.architecture())
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        os._exit(1)


def _difference(run: Run, other: Run) -> str:
    ours, theirs = _numbers(run), _numbers(other)
    if ours != theirs:
        k = next((k for k, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        return f"rows differ from row {k} on ({len(ours)} and {len(theirs)} rows)"
    if list(run.samples) != list(other.samples):
        return "stored predictions differ"
    states = [checkpoint.load(checkpoint.folder_of(r.checkpoint_folder, r.last or 0)) for r in (run, other)]
    for name in ("model", "ema", "optimizer"):
        mine, yours = (getattr(state, name) for state in states)
        if mine.keys() != yours.keys() or not all(torch.equal(mine[k], yours[k]) for k in mine):
            return f"{name} differs"
    return ""


def _numbers(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]


if __name__ == "__main__":
    sys.exit(main())
