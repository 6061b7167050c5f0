"""Kills and full disks at points of all writing: a sample of what `benchmarks/kill.py` does in full."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def test_all_that_writes_survives_kills_and_full_disks_amid_its_writing() -> None:
    # A process of its own: it forks children that train, which is safe only where no threads run.
    script = Path(__file__).resolve().parents[2] / "benchmarks" / "kill.py"
    command = [sys.executable, str(script), "--each", "1", "--full", "1", "--walks", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "9 full disks: all survived" in done.stdout
