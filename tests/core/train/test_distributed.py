"""Two processes with half the batch each train like one with the whole of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from torch.testing import assert_close

from matscale.core.train import checkpoint
from matscale.core.train.record import Run
from matscale.core.train.session import train

CHANGES = ["architecture.config.dropout=0", "budget.steps=9", "log_every=1", "evaluation.every=4"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def launch(size: int, *arguments: str | Path) -> list[subprocess.Popen[bytes]]:
    """What torchrun does."""
    port, script = free_port(), str(Path(tiny.__file__))
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(size), "OMP_NUM_THREADS": "1"}
    return [
        subprocess.Popen(
            [sys.executable, script, *map(str, arguments)],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_same_global_batch(data: Path, tmp_path: Path) -> None:
    one = train(
        tiny.configured(data, *CHANGES, "batch.accumulate=2"), tmp_path / "one", architecture=tiny.architecture()
    )
    processes = launch(2, tmp_path / "two", data, *CHANGES)
    assert [p.wait(120) for p in processes] == [0, 0]
    two = Run.open(tmp_path / "two")
    assert two.info["world_size"] == 2
    assert two.info["global_batch"] == one.info["global_batch"] == {"structures": 8}
    ours, theirs = list(one.metrics()), list(two.metrics())
    assert [(r["step"], r["split"], r["epoch"]) for r in ours] == [(r["step"], r["split"], r["epoch"]) for r in theirs]
    for mine, yours in zip(ours, theirs):
        for key in ("structures", "atoms", "edges", "flops"):
            assert mine[key] == yours[key]
        for key in ("loss", "objective", "energy_mae", "forces_cos", "stress_mae"):
            assert yours[key] == pytest.approx(mine[key], rel=1e-8)
    states = [
        checkpoint.load_weights(checkpoint.folder_of(r.checkpoint_folder, r.last), averaged=False) for r in (one, two)
    ]
    for key in states[0]:
        assert_close(states[0][key], states[1][key], rtol=1e-7, atol=1e-10)
