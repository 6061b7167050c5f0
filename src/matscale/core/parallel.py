"""Work for several processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from typing import Any, TypeVar

T = TypeVar("T")


def in_processes(function: Callable[..., T], tasks: Sequence[tuple[Any, ...]], workers: int) -> Iterator[tuple[int, T]]:
    """Call `function(*task)` for every task in at most `workers` processes: (number of the task, result), as they end.

    The first exception ends the iteration; tasks that have not begun are then left out.
    """
    # Spawned, not forked: a fork copies locks of threads (torch, LMDB) that no thread of the child will release.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context, initializer=_die_with_parent) as pool:
        try:
            waiting = {pool.submit(function, *task): number for number, task in enumerate(tasks)}
            while waiting:
                finished, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in finished:
                    yield waiting.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _die_with_parent() -> None:
    """End this process when its parent is gone: it would wait for work for ever."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
