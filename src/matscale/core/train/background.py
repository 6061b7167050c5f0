"""Writer of checkpoints in a background thread, with at most one under way."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from matscale.core.files import DiskError


class BackgroundWriter:
    """Context with a thread that writes while training goes on. At its end, it waits for the write in progress."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: tuple[Future[None], Callable[[], None]] | None = None

    def __enter__(self) -> BackgroundWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            # An error of the disk does not replace the error that ended training.
            with suppress(*(() if kind is None else (DiskError,))):
                self.conclude()
        finally:
            self._thread.shutdown()

    def begin(self, write: Callable[[], None], then: Callable[[], None]) -> None:
        """Run `write` in the background, after the previous write has ended; `conclude` runs `then` afterwards."""
        self.conclude()
        self._under_way = self._thread.submit(write), then

    def conclude(self, wait: bool = True) -> None:
        """Wait for the write in progress, raise its error, and run its `then`.

        Without `wait`, do so only if it has ended.
        """
        if self._under_way is None or not (wait or self._under_way[0].done()):
            return
        (written, then), self._under_way = self._under_way, None
        written.result()
        then()
