"""Worker processes on this machine: call a function for many tasks in parallel."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice, starmap
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any, TypeVar

from matscale.core.errors import DataError

T = TypeVar("T")

AHEAD = 4
"""Number of tasks per process that are sent in advance: all processes stay busy, and memory stays small."""


def in_processes(function: Callable[..., T], tasks: Iterable[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, T]]:
    """Call `function(*task)` for every task, in `workers` processes. Yields (number of the task, result).

    Results come in the order in which tasks end. With one worker, tasks run in this process. The first exception is
    raised here and ends all processes. Raises DataError if a process was killed.
    """
    if workers <= 1:
        yield from enumerate(starmap(function, tasks))
        return
    # Processes are spawned: a fork would copy locks of threads (torch, LMDB) that are never released in the child.
    context = multiprocessing.get_context("spawn")
    alive, kept = context.Pipe(duplex=False)
    with kept, alive, ProcessPoolExecutor(workers, context, initializer=_prepare, initargs=(alive,)) as pool:
        numbered, running = enumerate(tasks), dict[Future[T], int]()

        def begin(n: int) -> None:
            with _no_script():
                running.update({pool.submit(function, *task): number for number, task in islice(numbered, n)})

        try:
            begin(AHEAD * workers)
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    number, result = running.pop(future), future.result()
                    begin(1)
                    yield number, result
        except BaseException as error:
            kept.close()  # ends the processes
            pool.shutdown(wait=True, cancel_futures=True)
            if isinstance(error, BrokenProcessPool):
                raise DataError(
                    "A worker process ended early; its output is above. If it ran out of memory, use fewer workers "
                    "(--workers 1)."
                ) from None
            raise


@contextmanager
def _no_script() -> Iterator[None]:
    """Context that hides the caller's script while processes start.

    Otherwise, multiprocessing would run the script again in each process. A script without `if __name__ == "__main__"`
    would then start processes without end.
    """
    script, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _prepare(alive: Connection) -> None:
    """Prepare a worker process. The process ends when its caller dies, or closes the other end of `alive`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    os.dup2(2, 1)  # output of a reader or a labeler must not mix with the caller's results
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller handles interrupts: it ends its workers

    def watch() -> None:
        alive.poll(None)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
