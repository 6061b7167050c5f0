"""Benchmarks beside other packages stand on the ground that they name."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ground  # noqa: E402
from machine import processor  # noqa: E402

from matscale.core.runs.config import OptimizerConfig  # noqa: E402
from matscale.core.train.optimizer.optim import adamw  # noqa: E402

SERVED = """
import sys
sys.path.insert(0, {folder!r})
import ground, torch
model = torch.nn.Linear(2, 1)
optimizer = ground.adamw_of_others(model, "itself")
side = ground.Side("one", model, lambda k: {{"energy": model(torch.ones(k, 2))}}, optimizer)
print("a line that fairchem's import prints")
ground.serve(side)
"""


def test_on_equal_ground_both_sides_have_the_optimizer_and_heap_of_the_trainer() -> None:
    model = nn.Linear(2, 1)
    trainers = adamw(model, OptimizerConfig()).defaults["fused"]
    assert ground.adamw_of_others(model, "equal").defaults["fused"] is trainers is True
    assert not ground.adamw_of_others(model, "itself").defaults["fused"]
    kept = type(ground.heap("matscale", "itself"))
    assert type(ground.heap("fairchem", "equal")) is kept
    assert type(ground.heap("fairchem", "itself")) is not kept


@pytest.mark.parametrize("script", ["eqv2", "models", "escaip"])
def test_a_benchmark_beside_other_packages_makes_no_optimizer_of_its_own(script: str) -> None:
    source = (BENCHMARKS / f"{script}.py").read_text(encoding="utf-8")
    assert "torch.optim" not in source
    assert "heading(" in source


@pytest.mark.parametrize("script", sorted(BENCHMARKS.glob("*.py")), ids=lambda path: path.name)
def test_a_benchmark_that_imports_fairchem_v1_installs_stand_ins_first(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    lines = {
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fairchem."))
        or (isinstance(node, ast.Import) and any(alias.name.startswith("fairchem.") for alias in node.names))
    }
    if not lines or "fairchem-core 2" in source.replace("\n", " ") or script.stem == "escaip":
        return  # none, or v2, which needs none
    calls = [number for number, line in enumerate(source.splitlines(), 1) if "standins.install()" in line]
    assert calls
    assert min(calls) < min(lines) or script.stem == "fairchem_side"  # it installs them before anything in its main


def test_a_side_in_a_process_of_its_own_answers_with_seconds_and_memory(tmp_path: Path) -> None:
    script = tmp_path / "served.py"
    script.write_text(SERVED.format(folder=str(BENCHMARKS)))
    with ground.Process([str(script)]) as process:
        assert 0 < process.ask("step", 3) < 60
        assert 0 <= process.ask("evaluation", 3) < 60
        assert process.ask("peak-step", 3) >= 0


def test_a_side_that_ends_is_said_to_have_ended() -> None:
    with ground.Process(["-c", "import sys; sys.exit(3)"]) as ended:
        ended.process.wait()
        with pytest.raises(SystemExit, match="ended with 3 instead of an answer"):
            ended.ask("step", 0)


def test_every_batch_goes_to_one_side_and_the_other_in_turn() -> None:
    seen: list[tuple[str, int]] = []

    def work(name: str, seconds: float):
        def step(batch: int) -> float:
            seen.append((name, batch))
            return seconds

        return step

    totals = ground.alternate([work("a", 1.0), work("b", 2.0)], n_batches=2, passes=3)
    assert totals == [[2.0] * 3, [4.0] * 3]
    assert seen[:4] == [("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert ground.ratios(totals[1], totals[0]) == {"ratio": 2.0, "least": 2.0, "largest": 2.0}


def test_times_come_with_the_processor_and_its_vector_instructions() -> None:
    intel = "model name\t: A Chip\ncpu family\t: 6\nmodel\t: 85\nflags\t: avx2 avx512f\n\nmodel name\t: Another"
    assert processor(intel) == "A Chip (family 6, model 85; AVX2, AVX-512)"
    assert processor("model name : B\ncpu family : 25\nmodel : 1\nflags : avx2") == (
        "B (family 25, model 1; AVX2, no AVX-512)"
    )
    said = ground.heading(ground.GROUNDS)
    assert processor() in said
    assert torch.__version__ in said
    assert said.index("equal:") < said.index("itself:")
