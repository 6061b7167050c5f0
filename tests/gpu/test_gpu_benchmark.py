"""benchmarks/gpu.py runs to its end on a CPU, and says what is wrong."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from matscale.core.data.store.packed import PackedDataset
from matscale.core.hosting.host import host

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu


@pytest.fixture(autouse=True)
def _briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("timing", "bench"):
        monkeypatch.setattr(f"matscale.core.estimate.{module}.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("matscale.core.flops.peaks.measured_peak", lambda device, precision: 1e12)
    monkeypatch.setattr(gpu, "measured_peak", lambda device, precision: 1e12)


def results(folder: Path, data: PackedDataset, *options: str) -> tuple[int, dict[str, Any], str]:
    code = gpu.main(["--device", "cpu", "--quick", "--data", str(data.path), "-o", str(folder), *options])
    values = json.loads((folder / "gpu.json").read_text(encoding="utf-8"))
    return code, values["results"], (folder / "gpu.md").read_text(encoding="utf-8")


def few() -> Iterator[tuple[str, str]]:
    yield from (("machine", ""), ("correct", "schnet"), ("resume", ""), ("nccl", ""), ("fairchem", "schnet"))


def test_it_writes_one_json_and_one_page(
    monkeypatch: pytest.MonkeyPatch, alloys: PackedDataset, tmp_path: Path
) -> None:
    monkeypatch.setattr(gpu, "plan", few)
    code, found, page = results(tmp_path, alloys)
    assert code == 0
    assert {row["verdict"] for row in found["correct schnet"]["rows"]} == {"right"}
    assert found["resume"] == {"verdict": "bitwise", "repeated_differs_by": 0, "resumed_differs_by": 0, "steps": 2}
    assert found["nccl"]["verdict"] == "right"
    assert "fairchem-core 1.10.0" in found["fairchem schnet"]["verdict"]
    for word in ("Predicted before", "| correct schnet, ", "| resume | bitwise |", "| nccl | right |"):
        assert word in page


def test_what_is_wrong_or_fails_is_told_and_the_other_parts_go_on(
    monkeypatch: pytest.MonkeyPatch, alloys: PackedDataset, tmp_path: Path
) -> None:
    def fail(options: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access\nmore")

    def wrong(options: Any) -> Any:
        return {"verdict": "WRONG"}

    parts = {"machine": (fail, 1.0), "resume": (wrong, 1.0), "nccl": gpu.PARTS["nccl"]}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "plan", lambda: iter((name, "") for name in parts))
    code, found, page = results(tmp_path, alloys)
    assert code == 1
    assert found["machine"]["verdict"] == "FAILED: RuntimeError: CUDA error: an illegal memory access"
    assert found["nccl"]["verdict"] == "right"
    assert "| resume | WRONG |" in page


def test_every_architecture_is_checked_and_no_part_takes_more_than_the_ten_minutes() -> None:
    planned = list(gpu.plan())
    assert {about for part, about in planned if part == "correct"} == {a.name for a in host().architectures()}
    assert {part for part, _ in planned} == {*gpu.PARTS}
    assert max(limit for _, limit in gpu.PARTS.values()) < 60 * gpu.MINUTES
