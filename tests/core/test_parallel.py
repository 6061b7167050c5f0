"""Work in several processes: from any script, in bounded memory, with one sentence for a process that dies."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from math import factorial
from pathlib import Path

import pytest

from matscale.core.errors import DataError
from matscale.core.parallel import AHEAD, in_processes


def test_a_script_without_a_main_guard_may_use_several_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from math import factorial\nfrom matscale.core.parallel import in_processes\n"
        "print(sorted(in_processes(factorial, [(3,), (4,), (5,)], 2)))\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert done.stdout == "[(0, 6), (1, 24), (2, 120)]\n"
    assert done.stderr == ""


def test_a_worker_that_dies_is_an_error_in_one_sentence() -> None:
    with pytest.raises(DataError, match=r"ended early.*--workers 1"):
        list(in_processes(os._exit, [(9,), (9,)], 2))


def test_tasks_are_taken_as_they_are_needed() -> None:
    taken = list[int]()

    def tasks() -> Iterator[tuple[int]]:
        for n in range(100):
            taken.append(n)
            yield (n,)

    results = in_processes(factorial, tasks(), 2)
    next(results)
    assert len(taken) <= AHEAD * 2 + 1
    results.close()  # type: ignore[attr-defined]
    assert len(taken) <= AHEAD * 2 + 1
