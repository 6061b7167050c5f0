"""The ground on which models of several packages are timed: `equal` for all, or each package as it runs by `itself`.

`equal`: all sides in one process, freed memory stays with it (`core/heap.py`), AdamW is fused for all.
`itself`: each side in a process of its own. matscale's keeps freed memory and has fused AdamW, as `matscale train` sets
both; the others' leave the heap to glibc and AdamW as torch has it by default, a loop over the weights.
On either ground: one thread, denormals flushed (by itself no package does so), and every batch goes to one side and the
other in turn, so that what else the machine does meets all sides. Seconds are those of the processor.
"""

from __future__ import annotations

import gc
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from machine import machine
from torch import Tensor, nn

from matscale.core.heap import OF_USER, is_glibc, kept_heap

Ground = Literal["equal", "itself"]
GROUNDS: tuple[Ground, ...] = ("equal", "itself")
OWN = "matscale"
_ANSWER = "answer "


@dataclass
class Side:
    """A model with its own kind of batches."""

    name: str
    model: nn.Module
    predict: Callable[[int], dict[str, Tensor]]
    """Outputs of a batch by its number."""
    optimizer: torch.optim.Optimizer

    def step(self, batch: int) -> None:
        """Forward, loss (the sum of mean absolute outputs), backward, AdamW."""
        self.optimizer.zero_grad()
        loss = sum(output.abs().mean() for output in self.predict(batch).values())
        assert isinstance(loss, Tensor)
        loss.backward()
        self.optimizer.step()

    def evaluate(self, batch: int) -> dict[str, Tensor]:
        with torch.no_grad():
            return self.predict(batch)


def adamw_of_others(model: nn.Module, ground: Ground, weight_decay: float = 0.01) -> torch.optim.AdamW:
    """For a package that is not matscale."""
    return torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=weight_decay, fused=ground == "equal")


def heap(name: str, ground: Ground) -> AbstractContextManager[None]:
    """Freed memory of a side: kept, or left to glibc."""
    return kept_heap() if ground == "equal" or name == OWN else nullcontext()


def settle(flushes: bool = True) -> None:
    torch.set_num_threads(1)
    torch.set_flush_denormal(flushes)


def heading(grounds: Sequence[Ground], flushes: bool = True) -> str:
    """Heading of a table of times: the processor, torch, and the terms of each ground."""
    tuned = [name for name in OF_USER if name in os.environ]
    heap = f" ({', '.join(tuned)} tunes the heap of all sides)" if tuned else "" if is_glibc() else " (no glibc here)"
    said = {
        "equal": f"equal: one process, freed memory kept{heap} and fused AdamW on all sides",
        "itself": f"itself: a process each; matscale as above, the others on glibc's heap{heap}, AdamW not fused",
    }
    first = f"{machine()}; torch {torch.__version__}, 1 thread, denormals {'flushed' if flushes else 'kept'} everywhere"
    return "\n".join([first, *(said[ground] for ground in grounds)])


def difference(a: Side, b: Side, n_batches: int) -> dict[str, float]:
    """Largest difference of each output over its largest value."""
    worst: dict[str, float] = {}
    for batch in range(n_batches):
        first, second = a.predict(batch), b.predict(batch)
        for name, value in second.items():
            x, y = first[name].detach().double().flatten(), value.detach().double().flatten()
            worst[name] = max(worst.get(name, 0.0), float((x - y).abs().max() / x.abs().max()))
    return worst


def timed(work: Callable[[int], object]) -> Callable[[int], float]:
    """Seconds of the processor for it: those of the clock on an idle machine, and hardly longer on a busy one."""

    def seconds(batch: int) -> float:
        start = time.process_time()
        work(batch)
        return time.process_time() - start

    return seconds


def alternate(works: Sequence[Callable[[int], float]], n_batches: int, passes: int) -> list[list[float]]:
    """Seconds of each pass over all batches, per side; every batch goes to one side and the other in turn."""
    freeze()
    totals: list[list[float]] = [[] for _ in works]
    for number in range(passes + 1):
        sums = [0.0] * len(works)
        for batch in range(n_batches):
            for side, work in enumerate(works):
                sums[side] += work(batch)
        if number:  # the first pass fills caches
            for side, seconds in enumerate(sums):
                totals[side].append(seconds)
    return totals


def freeze() -> None:
    """The many objects that imports and models leave behind are not looked through again."""
    gc.collect()
    gc.freeze()


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times as fast we are: the median of the ratios of a pass, and the least and largest of them."""
    found = [a / b for a, b in zip(theirs, ours)]
    return {"ratio": statistics.median(found), "least": min(found), "largest": max(found)}


# Sides in processes of their own --------------------------------------------------------------------------------------


class Process:
    """A side in a process of its own, which works when it is told to and sleeps else."""

    def __init__(self, command: Sequence[str]) -> None:
        whole = [sys.executable, *command]
        self.process: Any = subprocess.Popen(whole, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, what: str, batch: int) -> float:
        """`step`, `evaluation`: seconds. `peak-step`, `peak-evaluation`: MB above the process with its model."""
        with suppress(BrokenPipeError):  # a process that has ended gives no answer below
            self.process.stdin.write(f"{what} {batch}\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(_ANSWER):
                return float(line.removeprefix(_ANSWER))
        raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()} instead of an answer.")

    def work(self, what: str) -> Callable[[int], float]:
        return lambda batch: self.ask(what, batch)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()


def serve(side: Side) -> None:
    """The other end of `Process`."""
    freeze()
    for line in sys.stdin:
        what, batch = line.split()
        work = side.step if what.endswith("step") else side.evaluate
        if side.model.training != what.endswith("step"):
            side.model.train(not side.model.training)
        value = peak_mb(work, int(batch)) if what.startswith("peak-") else timed(work)(int(batch))
        print(f"{_ANSWER}{value!r}", flush=True)


def status_mb(key: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def peak_mb(work: Callable[[int], object], batch: int) -> float:
    """Peak memory of three times the work, above that of the process before it."""
    base = status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # reset the high-water mark
    for _ in range(3):
        work(batch)
    return status_mb("VmHWM") - base


def peak_in_a_process(command: Sequence[str], what: str, batch: int) -> float:
    with Process(command) as process:
        return process.ask(f"peak-{what}", batch)
