"""CPU threads: the number that this process may use, and the behaviour of waiting threads.

Threads of OpenMP spin (they use a core) while they wait for one another. If other processes need the same cores, the
spinning threads take time from the thread for which they wait: two threads beside two busy loops made 9 steps in 24
minutes. `prepare` sets OpenMP so that threads spin for about 20 µs and then sleep. (Without any spinning, waking the
threads makes small models on an idle machine a third slower.) OpenMP reads its settings when torch is imported;
therefore `matscale/__init__.py` calls `prepare` before that.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_set_here: list[str] = []
"""Environment variables that `prepare` has set."""
_CGROUP = Path("/sys/fs/cgroup")


def prepare() -> None:
    """Set environment variables of OpenMP for this process and its children.

    Variables that are set already are kept. If torch is imported already, nothing is set.
    """
    if "torch" in sys.modules:
        return
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.environ["GOMP_SPINCOUNT"] = "2000"  # GNU's OpenMP alone; about 100 a microsecond
    if not any(name in os.environ for name in _COUNTS) and usable_cores() < _allowed():
        os.environ["OMP_NUM_THREADS"] = str(usable_cores())
        _set_here.append("OMP_NUM_THREADS")


def shared_among(n_processes: int) -> dict[str, str]:
    """Environment variables with which processes share the cores; empty if the user has set a number of threads.

    With one process, its threads stay as they are.
    """
    if n_processes == 1 or any(name in os.environ and name not in _set_here for name in _COUNTS):
        return {}
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // n_processes))}


def usable_cores() -> int:
    """Number of cores that this process may use, by its affinity and by the CPU quota of a container."""
    quota = _quota()
    return _allowed() if quota is None else max(1, min(_allowed(), round(quota)))


def _allowed() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _quota() -> float | None:
    limits = [_limit(folder) for folder in _groups()]
    return min((limit for limit in limits if limit is not None), default=None)


def _limit(folder: Path) -> float | None:
    """Read the limit of one control group: `cpu.max` in version 2, two files in version 1. None if there is none."""
    try:
        if (folder / "cpu.max").exists():
            limit, period = (folder / "cpu.max").read_text().split()
        else:
            limit = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        return None if limit == "max" or int(limit) <= 0 else int(limit) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or no limit
        return None


def _groups() -> list[Path]:
    """Folders of the control groups that limit the CPU time of this process, with all groups above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    folders: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = _CGROUP / controllers
        folder = root / path.strip("/")
        folders += [folder, *(parent for parent in folder.parents if parent.is_relative_to(root))]
    return folders
