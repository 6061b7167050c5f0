"""What OpenMP is told before torch is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from matscale.core import threads

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
SHOW = f"import matscale, os; print(*map(os.environ.get, {NAMES}))"


def shown(code: str = SHOW, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_"))}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_waiting_threads_sleep_unless_the_user_says_otherwise() -> None:
    assert shown().startswith("PASSIVE 2000")
    assert shown(OMP_WAIT_POLICY="ACTIVE").startswith("ACTIVE None")
    assert shown(GOMP_SPINCOUNT="1000").startswith("None 1000")


def test_nothing_is_set_once_torch_is_imported() -> None:
    assert shown("import sys; sys.modules['torch'] = sys; " + SHOW) == "None None None"


def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, **files: str) -> None:
    for name, text in files.items():
        (tmp_path / name.replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")).write_text(text)
    monkeypatch.setattr(threads, "_groups", lambda: [tmp_path / "gone", tmp_path])
    monkeypatch.setattr(threads, "_allowed", lambda: 8)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu_max": "max 100000"}, 8),
        ({"cpu_max": "250000 100000"}, 2),
        ({"cpu_max": "20000 100000"}, 1),
        ({"cpu_max": "9900000 100000"}, 8),
        ({"cpu_max": "nonsense"}, 8),
        ({"cpu_cfs_quota_us": "300000", "cpu_cfs_period_us": "100000"}, 3),
        ({"cpu_cfs_quota_us": "-1", "cpu_cfs_period_us": "100000"}, 8),
        ({}, 8),
    ],
)
def test_cores_are_those_that_the_control_group_grants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: dict[str, str], cores: int
) -> None:
    group(monkeypatch, tmp_path, **files)
    assert threads.usable_cores() == cores


def test_torch_gets_no_more_threads_than_a_quota_pays_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group(monkeypatch, tmp_path, cpu_max="200000 100000")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.delenv(name, raising=False)
    threads.prepare()
    assert os.environ["OMP_NUM_THREADS"] == "2"
