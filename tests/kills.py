"""Work that writes, to be killed at every point: by a fork of this process, which has everything imported already."""

from __future__ import annotations

import json
import os
import re
import signal
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

import tiny
from costs import cost_once
from crystals import random_structures
from matscale.core.data.graph import Graph
from matscale.core.data.sources.pack import pack
from matscale.core.data.store import edge_cache_build, verified
from matscale.core.data.store.edge_cache import open_cache
from matscale.core.data.store.edge_cache_build import build_cache
from matscale.core.data.store.manifest import FILE
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.synthetic.make import make
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import MatscaleError
from matscale.core.files import FAULT, FAULT_COUNT, DiskError, write_text
from matscale.core.hosting.host import host
from matscale.core.inference import predict
from matscale.core.model.architecture import ArchitectureConfig, DatasetInfo
from matscale.core.model.potential import Potential, Scales
from matscale.core.report.build import build
from matscale.core.report.page import page
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.runs.record import CONFIG, TIMINGS, Run
from matscale.core.study import sweep as sweeping
from matscale.core.train import session
from matscale.core.train.session import train

OUT = "out"
"""What a victim makes, in the folder that it is given."""


@dataclass(frozen=True)
class Victim:
    """`work` in a folder is a command that a user types, and types again after a kill. `contents` reads what is there,
    None if nothing is, and raises if something half-written is taken for whole; it leaves out what a clock decides."""

    work: Callable[[Path], object]
    contents: Callable[[Path], Any]
    appears_whole: bool = True
    """What is there after a kill is nothing or all of it; else it grows."""


def victims(shelf: Path) -> dict[str, Victim]:
    """All kinds, with what they need laid out in `shelf`."""
    torch.set_num_threads(1)
    data = tiny.make_dataset(shelf / "data", 16).path
    every = ("budget.steps=6", "checkpoint.every=2", "evaluation.every=3", "log_every=2")
    config, architecture = tiny.configured(data, *every), tiny.architecture()

    def training(folder: Path) -> None:
        with patch.object(session, "cost_of_setup", cost_once):
            train(config, folder / OUT, resume=(folder / OUT / CONFIG).exists(), architecture=architecture)

    with patch.object(verified, "SETTLED_NS", -1_000_000_000_000):  # stamped now, or each fork might write a stamp
        for name, work in (("training", training), ("sweep", lambda folder: _sweep(folder, data))):
            (shelf / name).mkdir()
            work(shelf / name)  # costs are counted here, and known to all forks

    sources = [_extxyz(shelf / f"source-{k}.extxyz", k) for k in range(2)]
    emt = host().labeler("emt")
    model = _schnet()
    found = {
        "train": Victim(training, lambda folder: _run(folder / OUT), appears_whole=False),
        "pack": Victim(
            lambda folder: pack(sources, folder / OUT, task_size=4, piece_bytes=1500, shard_bytes=20_000),
            lambda folder: _dataset(folder / OUT),
        ),
        "make": Victim(
            lambda folder: (folder / OUT).exists() or make(Recipe(n=4), emt, folder / OUT),
            lambda folder: _dataset(folder / OUT),
        ),
        "edges": Victim(lambda folder: _edges(folder, data), lambda folder: _edges_of(folder / OUT)),
        "sweep": Victim(lambda folder: _sweep(folder, data), _study, appears_whole=False),
        "predict": Victim(
            lambda folder: _predict(model, sources[0], folder / f"{OUT}.extxyz.gz"),
            lambda folder: _bytes(folder / f"{OUT}.extxyz.gz"),
        ),
        "export": _export(shelf, data),
        "import": _import(shelf),
        "report": _report(shelf),
    }
    for name in ("pack", "make", "edges", "predict", "report"):  # what they import is imported here, not in each fork
        (shelf / name).mkdir()
        found[name].work(shelf / name)
    return found


# What is done ---------------------------------------------------------------------------------------------------------


def _extxyz(path: Path, seed: int) -> Path:
    from ase.io import write

    images = []
    for s in random_structures(9, seed=seed):
        atoms = s.to_ase()
        images.append(atoms)
    images[3].calc.results["forces"][0] = np.nan  # for rejected.jsonl
    write(path, images, format="extxyz")
    return path


def _potential(name: str, config: ArchitectureConfig) -> Potential:
    info = DatasetInfo(elements=tuple(range(1, 100)), mean_atoms=5.0, mean_degree=20.0)
    scales = Scales(energy=1.0, forces=1.0, stress=1.0)
    return Potential.of(host().architecture(name), config, info, 0, torch.zeros(119, dtype=torch.float64), scales)


def _schnet() -> Potential:
    return _potential("schnet", host().architecture("schnet").config.parse({"hidden": 8}))


def _predict(model: Potential, source: Path, target: Path) -> None:
    predict.predict_file(model, source, target, batch=2)


def _edges(folder: Path, data: Path) -> None:
    if not (folder / OUT).exists():
        (folder / OUT).mkdir()
        for file in data.iterdir():
            if file.is_file():
                (folder / OUT / file.name).write_bytes(file.read_bytes())
    never = 10**18  # whether a new file is old enough for a stamp is a question of time
    with patch.object(edge_cache_build, "PIECE", 4), patch.object(verified, "SETTLED_NS", never):
        build_cache(PackedDataset.open(folder / OUT), Graph.radius(4.0))


def _sweep(folder: Path, data: Path) -> None:
    from studies import Here, planned

    values = {"seeds": [0], "budget": {"steps": 4}, "output": str(folder / OUT)}
    plan = planned(folder, data, **values)
    with ExitStack() as stack:
        stack.enter_context(patch.multiple(sweeping, PAUSE=0.0, EVERY=0.0))
        stack.enter_context(patch.object(session, "cost_of_setup", cost_once))
        sweep = sweeping.Sweep(plan, Here())
        sweep.run()
        sweep.conclude()


def _export(shelf: Path, data: Path) -> Victim:
    from matscale.core.fairchem.export import export_run

    family = host().architecture("eqv2")
    config = family.ladder(10_000).model_copy(update={"stress_head": "rank2", "max_neighbors": 20})
    run = Run.create(shelf / "eqv2", TrainConfig.parse({"architecture": {"name": "eqv2", "config": config.plain()}}))
    info = DatasetInfo(elements=(29, 79), mean_atoms=3.0, mean_degree=20.0)
    run.update({"dataset_info": info.plain(), "status": "completed"})
    references = torch.zeros(119, dtype=torch.float64)
    state = Potential.of(family, config, info, 0, references, Scales(1.0, 1.0, 1.0)).state_dict()
    checkpoint.save(run.checkpoint_folder, checkpoint.Checkpoint(1, state, None, {}, {}))
    write_text(run.checkpoint_folder / "best", "1\n")
    export_run(run, shelf / "exported.pt")

    def work(folder: Path) -> None:
        if not (folder / f"{OUT}.pt").exists():
            export_run(Run.open(run.path), folder / f"{OUT}.pt")

    return Victim(work, lambda folder: _bytes(folder / f"{OUT}.pt"))


def _import(shelf: Path) -> Victim:
    from matscale.core.fairchem import run as importing

    found = importing.read(shelf / "exported.pt")  # once: it takes a process, and writes nothing that stays

    def work(folder: Path) -> None:
        if not (folder / OUT / CONFIG).exists():
            with patch.object(importing, "read", lambda path: found):
                importing.import_run(shelf / "exported.pt", folder / OUT)

    def contents(folder: Path) -> Any:
        run = _run(folder / OUT)
        assert run is None or Run.open(folder / OUT).info["status"] == "completed"
        return run

    return Victim(work, contents)


def _report(shelf: Path) -> Victim:
    def work(folder: Path) -> None:
        write_text(folder / f"{OUT}.html", page(build([str(shelf / "training" / OUT)], measure_baselines=False)))

    def contents(folder: Path) -> Any:
        text = _bytes(folder / f"{OUT}.html")
        return None if text is None else (text.rstrip().endswith(b"</html>"), len(text) // 100)

    return Victim(work, contents)


# What came of it ------------------------------------------------------------------------------------------------------


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _dataset(folder: Path) -> Any:
    if not (folder / FILE).exists():
        return None
    PackedDataset.open(folder).verify()
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.is_file() and p.name != ".lock"}


def _edges_of(folder: Path) -> Any:
    if not folder.exists() or (cache := open_cache(PackedDataset.open(folder), Graph.radius(4.0))) is None:
        return None
    return {p.name: p.read_bytes() for p in sorted(cache.folder.iterdir()) if p.is_file() and p.name != ".lock"}


def _run(path: Path) -> Any:
    """All that training computed. What a checkpoint remembers has to be there: nothing complete was lost."""
    if not (path / CONFIG).exists():
        return None
    run = Run.open(path)
    for step in run.checkpoints():
        checkpoint.verify(checkpoint.folder_of(run.checkpoint_folder, step))
    if run.checkpoints():
        saved = checkpoint.load(checkpoint.folder_of(run.checkpoint_folder, run.checkpoints()[-1]))
        for name, written in saved.state.get("rows", {}).items():
            rows_there = {"metrics.jsonl": run.rows, "samples.jsonl": run.samples}[name]
            assert rows_there.written(written["rows"]) == written
        tensors = {"model": saved.model, "ema": saved.ema or {}, "optimizer": saved.optimizer}
        weights = {f"{part}.{key}": v.tolist() for part, values in tensors.items() for key, v in values.items()}
    else:
        weights = {}
    rows = [{k: v for k, v in row.items() if k not in TIMINGS} for row in run.metrics()]
    facts = {k: run.info.get(k) for k in ("status", "steps", "structures", "flops", "name")}
    pointers = [checkpoint.pointer(run.checkpoint_folder, name) for name in ("last", "best")]
    return facts, run.checkpoints(), pointers, rows, list(run.samples), weights


def _study(folder: Path) -> Any:
    ledger = folder / OUT / "runs.jsonl"
    rows = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    runs = {p.name: _run(p) for p in sorted((folder / OUT / "runs").glob("*"))}
    return [(row["run"], row["status"], row.get("loss")) for row in rows], runs


_LEFT_OVER = re.compile(r"\.partial|\.parts|\.tmp|\.part$|\.making|\.extracting")


def left_over(folder: Path) -> list[str]:
    """Names that only work under way has."""
    return [str(p.relative_to(folder)) for p in folder.rglob("*") if _LEFT_OVER.search(p.name)]


# Kills and full disks -------------------------------------------------------------------------------------------------


def forked(victim: Victim, folder: Path, **environment: str) -> tuple[int, str]:
    """Do the work in a fork of this process; (status of the process, error that ended it)."""
    said = folder / "said"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.environ.update(environment)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                victim.work(folder)
            code = 0
        except BaseException as error:
            os.environ.pop(FAULT, None)
            kind = "" if isinstance(error, DiskError) else f"{type(error).__name__}: "
            said.write_text(f"{kind}{error}")
            code = error.exit_code if isinstance(error, MatscaleError) else 70
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = said.read_text() if said.exists() else ""
    said.unlink(missing_ok=True)
    return status, text


def points(victim: Victim, folder: Path) -> list[str]:
    """What the work does on the disk, one by one: `amid write`, `before rename`, ..."""
    folder.mkdir()
    listed = folder.with_suffix(".points")
    status, said = forked(victim, folder, **{FAULT_COUNT: str(listed)})
    assert status == 0, said
    return [" ".join(line.split(" ", 3)[1:3]) for line in listed.read_text().splitlines()]


def kill_at(victim: Victim, folder: Path, point: int, whole: Any) -> None:
    """Kill the work at a point, look at what is there, do it again, and compare with what an unbroken one gives."""
    folder.mkdir()
    status, said = forked(victim, folder, **{FAULT: f"kill@{point}"})
    assert status == -signal.SIGKILL, f"point {point}: {status} {said}"
    found = victim.contents(folder)
    assert found is None or not victim.appears_whole or found == whole, f"point {point}: half of it is taken for whole"
    _again(victim, folder, f"killed at point {point}", whole)


def fill_at(victim: Victim, folder: Path, point: int, whole: Any, kind: str = "enospc", stays: bool = True) -> None:
    """Have the disk be full from a point on: one sentence, nothing half-written; then do it again with room."""
    folder.mkdir()
    status, said = forked(victim, folder, **{FAULT: f"{kind}@{point}{'+' if stays else ''}"})
    assert status == 1, f"point {point}: ends with {status}: {said}"
    assert "cannot be written" in said, said
    assert "\n" not in said, said
    assert not stays or os.strerror(28) in said, said
    found = victim.contents(folder)
    assert found is None or not victim.appears_whole or found == whole, f"point {point}: half of it is taken for whole"
    _again(victim, folder, f"full at point {point}", whole)


def _again(victim: Victim, folder: Path, what: str, whole: Any) -> None:
    status, said = forked(victim, folder)
    assert status == 0, f"{what}: the next start ends with {status}: {said}"
    assert victim.contents(folder) == whole, f"{what}: another result"
    assert not left_over(folder), f"{what}: left over: {left_over(folder)}"


@cache
def shelved(folder: Path) -> dict[str, Victim]:
    """The victims, made once in a process whatever asks for them."""
    (folder / "shelf").mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return victims(folder / "shelf")
