"""Equalities to the last bit hold with every instruction set that this processor can imitate, with one thread and two.

MATSCALE_TEST_LONG=1 imitates the plainest processor and runs the most sensitive tests of the files below;
MATSCALE_TEST_PROCESSORS=all beside it runs the whole of these files, with AVX2 and two threads too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
SENSITIVE = {
    "tests/cli/use/test_use_commands.py": "beside_the_baselines",
    "tests/core/baselines/test_baselines.py": "order_of_the_training_part or to_the_last_bit",
    "tests/core/train/test_resume.py": "bit_for_bit and springs-17",
    "tests/core/train/test_loss.py": "round_trip_bit_for_bit",
}


def simd() -> str:
    """The instruction sets beyond its baseline that numpy uses here: what it may be told not to use."""
    return " ".join(np.show_config(mode="dicts")["SIMD Extensions"].get("found", []))


PROCESSORS = {
    "plain": {
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "OPENBLAS_CORETYPE": "Nehalem",
        "NPY_DISABLE_CPU_FEATURES": simd(),
        "OMP_NUM_THREADS": "1",
    },
    "avx2": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "OMP_NUM_THREADS": "2",
        "MATSCALE_TEST_THREADS": "2",
    },
}


ALL = os.environ.get("MATSCALE_TEST_PROCESSORS") == "all"


@pytest.mark.long
@pytest.mark.parametrize("name", PROCESSORS if ALL else ["plain"])
def test_equalities_hold_on_other_processors(name: str) -> None:
    chosen = [] if ALL else ["-k", " or ".join(f"({k})" for k in SENSITIVE.values())]
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, *SENSITIVE]
    found = subprocess.run(line, cwd=ROOT, env=os.environ | PROCESSORS[name], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-2000:]
