"""Worker processes that draw and label families of structures.

Each is `python -m matscale.core.data.synthetic.workers`. It reads lines of JSON, one parent per line, and answers each
with a line. JSON keeps float64 exactly. A plain subprocess is safe where `multiprocessing` is not: it neither forks a
process that runs torch's threads nor imports the caller's script again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import numpy as np

from matscale.core import errors
from matscale.core.data.structure import Structure
from matscale.core.data.synthetic.families import family
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import DataError, MatscaleError

Parent = tuple[int, Structure | None]


class Crew:
    """Use as a context: `with Crew(recipe, "emt", 2) as crew: crew.families(parents)`."""

    def __init__(self, recipe: Recipe, labeler: str, size: int) -> None:
        command = [sys.executable, "-P", "-m", "matscale.core.data.synthetic.workers"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        pipe, self._first = subprocess.PIPE, {"recipe": recipe.plain(), "labeler": labeler}
        self._workers = [
            subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment, text=True, encoding="utf-8")
            for _ in range(size)
        ]
        # A thread for each worker waits for its answers, so that neither side ever waits with a full pipe.
        self._threads = ThreadPoolExecutor(size)
        self._idle: SimpleQueue[subprocess.Popen[str]] = SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.communicate()

    def families(self, parents: Iterable[Parent]) -> Iterator[list[Structure]]:
        """The structures of each parent, in the order of `parents`. Raises what a worker raised."""
        waiting: deque[Future[list[Structure]]] = deque()
        for number, given in parents:
            waiting.append(self._threads.submit(self._family, number, given))
            if len(waiting) >= 4 * len(self._workers):  # enough to keep all busy, few enough to hold in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def _family(self, number: int, given: Structure | None) -> list[Structure]:
        worker = self._idle.get()
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            message = self._first | {"parent": number, "given": given and _plain(given)}
            worker.stdin.write(json.dumps(message) + "\n")
            worker.stdin.flush()
            line = worker.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            self._idle.put(worker)  # a dead one, too: who takes it fails at once instead of waiting for ever
        if not line:
            raise DataError(
                f"A process that labels structures ended early (status {worker.wait()}); what it wrote is above. "
                "If it ran out of memory, use fewer (--workers 1)."
            )
        answer = json.loads(line)
        if "error" in answer:
            raise getattr(errors, answer["error"], DataError)(answer["text"])
        return [_structure(values) for values in answer["structures"]]


def _plain(structure: Structure) -> dict[str, Any]:
    return {
        key: value.tolist() if isinstance(value, np.ndarray) else value
        for key, value in vars(structure).items()
        if key != "info"
    }


def _structure(values: dict[str, Any]) -> Structure:
    types: dict[str, Any] = {"atomic_numbers": np.int64, "pbc": bool}
    arrays: dict[str, Any] = {
        key: np.array(values[key], dtype=types.get(key, np.float64))
        for key in ("atomic_numbers", "positions", "cell", "pbc", "forces", "stress")
        if values[key] is not None
    }
    return Structure(**(values | arrays))


def work() -> None:
    """Run a worker: answer each line of stdin with one line on stdout."""
    from matscale.core.hosting.host import host  # start-up: plugins

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the caller's to handle: it ends its workers
    os.dup2(2, 1)  # whatever a labeler prints must not get among the answers
    for line in sys.stdin:
        message = json.loads(line)
        try:
            recipe, labeler = Recipe.parse(message["recipe"]), host().labeler(message["labeler"])
            given = message["given"] and _structure(message["given"])
            answer: dict[str, Any] = {
                "structures": [_plain(s) for s in family(recipe, labeler, message["parent"], given)]
            }
        except MatscaleError as error:
            answer = {"error": type(error).__name__, "text": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    work()
