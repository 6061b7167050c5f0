"""The finished runs kept in studies/ give the numbers of docs/study.json, and docs/study.md shows its tables."""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from matscale.core.config import read_toml
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.info import changed_config, changed_rows, read_info
from matscale.core.scaling.tables.from_runs import find_runs
from matscale.core.study.config import Study
from matscale.core.study.identity import identity
from matscale.core.study.lr_law import read_lr_law

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import study  # noqa: E402

KEPT = [
    folder
    for folder in (find_runs(ROOT / "studies") if (ROOT / "studies").is_dir() else [])
    if read_info(folder).get("status") == "completed"
]
DOCUMENTED = json.loads(study.NUMBERS.read_text(encoding="utf-8"))


def differing(a: Any, b: Any, where: str = "") -> list[str]:
    """Places where two values differ; numbers by more than one in a million, as on another processor."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [place for key in sorted({*a, *b}) for place in differing(a.get(key), b.get(key), f"{where}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [place for k, pair in enumerate(zip(a, b)) for place in differing(*pair, f"{where}/{k}")]
    if isinstance(a, float) and isinstance(b, float):
        return [] if a == pytest.approx(b, rel=1e-6, abs=1e-9) else [f"{where}: {a} is documented, {b} found"]
    return [] if a == b else [f"{where}: {a!r} is documented, {b!r} found"]


def test_the_runs_that_are_kept_give_the_documented_numbers() -> None:
    found = json.loads(json.dumps(study.numbers(ROOT)))
    assert differing(DOCUMENTED, found) == [], "run: python benchmarks/study.py"


def test_the_page_shows_the_documented_numbers() -> None:
    page = study.PAGE.read_text(encoding="utf-8")
    assert study.unshown(page, study.tables(DOCUMENTED)) == []
    assert study.filled(page, study.tables(DOCUMENTED)) == page, "run: python benchmarks/study.py"


def test_a_run_that_is_kept_is_whole_and_knows_its_place_in_the_study() -> None:
    for folder in KEPT:
        info, config = read_info(folder), read_toml(folder / "config.toml")
        assert (changed_config(folder, info, config), changed_rows(folder, info)) == ("", "")
        assert not Path(info["dataset"]["path"]).is_absolute()
        start = config.get("start", {}).get("run")
        trunk = None if start is None else read_info(ROOT / start)["labels"]["identity"]
        assert identity(TrainConfig.parse(config), info["dataset"]["hash"], trunk) == info["labels"]["identity"]


def test_what_is_kept_of_the_studies_is_small() -> None:
    names = ("config.toml", "run.json", "metrics.jsonl", "baseline_errors.json")
    assert sum(path.stat().st_size for run in KEPT for name in names if (path := run / name).exists()) < 5e6


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("study-*.toml")), ids=lambda path: path.name)
def test_a_study_file_has_the_grid_of_the_plan(path: Path) -> None:
    read = Study.read(path)
    assert read.name == path.stem.removeprefix("study-")
    assert read.seeds == (0, 1)
    ranges = [e.params.counts() if hasattr(e.params, "counts") else e.params for e in read.architectures if e.params]
    ranges += [read.params.counts()] if hasattr(read.params, "counts") else []
    if read.name.endswith("-nd"):
        assert all(len(counts) == 6 for counts in ranges)
        assert 8 * max(read.wsd.steps) < 0.9 * 32_000  # less than one pass
        assert [b / a for a, b in pairwise(read.wsd.steps)] == [2, 2, 2]
    elif read.name.endswith("-n"):
        assert all(len(counts) == 8 for counts in ranges)
        assert read.params.counts()[-1] / read.params.counts()[0] in (32, 50)
    else:
        assert len(read.data.counts) == 6
        assert read.data.counts[-1] / read.data.counts[0] > 10**1.49
        assert max(read.data.counts) <= read.budget.steps[0] * 8


def test_the_gpu_day_has_320_runs_and_a_learning_rate_for_each() -> None:
    path = ROOT / "examples" / "gpu-day.toml"
    read = Study.read(path)
    runs = len(read.architectures) * read.params.rungs * len(read.data.counts) * len(read.seeds)
    assert f"= {runs} runs" in path.read_text(encoding="utf-8").splitlines()[0]
    assert all(0 < read_lr_law(read.lr, entry.name).lr(1_000_000) < 0.01 for entry in read.architectures)
    assert max(read.data.counts) < read.budget.steps[0] * read.set["batch"]["structures"]
