"""Several processes train like one: they divide the same batches."""

from __future__ import annotations

import os
import signal
import socket
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import tiny
from matscale.core.errors import ConfigError, PeerLost
from matscale.core.runs import checkpoint
from matscale.core.runs.record import Run
from matscale.core.train.learner import Learner
from matscale.core.train.optimizer.accumulation import Accumulation
from matscale.core.train.processes.world import World
from matscale.core.train.session import train

CHANGES = ["architecture.config.dropout=0", "budget.steps=9", "log_every=1", "evaluation.every=4"]


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port: int = s.getsockname()[1]
        return port


def launch(
    size: int,
    folder: Path,
    data: Path,
    *changes: str,
    said: Path | None = None,
    resume: bool = False,
    stop: int | None = None,
) -> list[BaseProcess]:
    """What torchrun does; what the first process says goes to the file `said`; it is asked to stop after `stop`."""
    return [
        tiny.begin(
            folder,
            data,
            *changes,
            said=None if rank else said,
            resume=resume,
            stop=None if rank else stop,
            **environment,
        )
        for rank, environment in enumerate(places(size))
    ]


def places(size: int) -> list[dict[str, str]]:
    """The environment of each of `size` processes, as torchrun sets it."""
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def codes(processes: list[BaseProcess]) -> list[int | None]:
    """Exit codes, once they have ended."""
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


@pytest.mark.slow
def test_two_processes_equal_one(data: Path, tmp_path: Path) -> None:
    changes = [*CHANGES, "batch.accumulate=2"]
    one = train(tiny.configured(data, *changes), tmp_path / "one", architecture=tiny.architecture())
    processes = launch(2, tmp_path / "two", data, *changes)
    assert codes(processes) == [0, 0]
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ((["seed=1"], ["seed=2"]), "different settings: seed is 1 on process 0, 2 on process 1"),
        ((["batch.structures=1"],) * 2, "a step has at most 1 structures, too few for 2 processes"),
    ],
)
def test_what_does_not_fit_several_processes_is_refused_on_each(
    data: Path, tmp_path: Path, changes: tuple[list[str], list[str]], told: str
) -> None:
    environments = places(2)
    said = [tmp_path / f"said-{rank}" for rank in range(2)]
    started = [
        tiny.begin(tmp_path / "run", data, *changes[rank], said=said[rank], **environments[rank]) for rank in range(2)
    ]
    assert codes(started) == [2, 2]
    assert all(told in text.read_text() for text in said)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "then"),
    [
        (2, 1),
        *(pytest.param(4, n, marks=pytest.mark.long) for n in (1, 2, 3)),
        pytest.param(1, 2, marks=pytest.mark.long),
    ],
)
def test_a_run_goes_on_with_another_number_of_processes(data: Path, tmp_path: Path, size: int, then: int) -> None:
    changes = [*CHANGES, "batch.accumulate=2"]  # 32 structures: four steps an epoch
    whole = train(tiny.configured(data, *changes), tmp_path / "whole", architecture=tiny.architecture())
    assert codes(launch(size, tmp_path / "run", data, *changes, stop=6)) == [5] * size
    assert Run.open(tmp_path / "run").last == 6
    assert codes(launch(then, tmp_path / "run", data, *changes, resume=True)) == [0] * then
    ours, theirs = list(whole.metrics()), list(Run.open(tmp_path / "run").metrics())
    assert [(r["step"], r["split"], r["epoch"]) for r in ours] == [(r["step"], r["split"], r["epoch"]) for r in theirs]
    for mine, yours in zip(ours, theirs):
        for key in ("structures", "atoms", "edges", "loss", "objective", "forces_cos", "stress_mae"):
            assert yours[key] == pytest.approx(mine[key], rel=1e-9)


def wait_for_rows(run: Path, processes: list[BaseProcess]) -> None:
    end = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() or not (run / "metrics.jsonl").read_text().strip():
        assert time.monotonic() < end, "no step was made"
        assert all(p.is_alive() for p in processes)
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_when_a_process_is_lost_the_others_say_so_and_end(data: Path, tmp_path: Path, number: int) -> None:
    run = tmp_path / "run"
    changes = ["budget.steps=1000000", "log_every=1", "evaluation.every=1000000", "compute.timeout=6"]
    processes = launch(2, run, data, *changes, said=tmp_path / "said")
    try:
        wait_for_rows(run, processes)
        os.kill(processes[1].pid or 0, number)
        processes[0].join(30)
        code = processes[0].exitcode
    finally:
        for process in processes:
            process.kill()
            process.join()
    assert code == 6
    said = (tmp_path / "said").read_text()
    sentence = said.strip().splitlines()[-1]
    assert sentence.startswith("Process 0 of 2: another process of the run ended, or did not answer for 6 s")
    assert "Traceback" not in said
    info = Run.open(run).info
    assert (info["status"], info["error"].partition(":")[0]) == ("failed", "PeerLost")


def test_one_process_takes_the_batches_of_the_loader_as_they_are(data: Path) -> None:
    setup = tiny.prepared(data)
    loader, objective = setup.training_loader(), setup.objective()
    accumulation = Accumulation(loader, 3, torch.device("cpu"), objective)
    for group, first in zip(accumulation.groups(0, 0), range(0, loader.n_batches(0), 3)):
        wanted = [loader.batch(0, k) for k in range(first, min(first + 3, loader.n_batches(0)))]
        assert group.n_batches == len(wanted)
        for batch, own in zip(group.batches, wanted, strict=True):
            assert torch.equal(batch.positions, own.positions)
            assert torch.equal(batch.forces, own.forces)


def test_a_step_with_fewer_structures_than_processes_leaves_some_without_any(data: Path) -> None:
    setup = tiny.prepared(data, "batch.structures=5")  # of 32 structures, the last batch has two
    loader, objective = setup.training_loader(), setup.objective()
    accumulations = [Accumulation(loader, 1, torch.device("cpu"), objective, World(rank, 4)) for rank in range(4)]
    last = [next(accumulation.groups(0, loader.n_batches(0) - 1)) for accumulation in accumulations]
    assert [sum(shape.n_structures for shape in group.shapes) for group in last] == [1, 1, 0, 0]
    assert [group.n_batches for group in last] == [1] * 4
    assert sum(group.labelled["energy"] for group in last) == 2


def test_more_processes_than_structures_are_refused(data: Path) -> None:
    setup = tiny.prepared(data)
    with pytest.raises(ConfigError, match="32 structures cannot be shared among 33 processes"):
        Accumulation(setup.training_loader(), 1, torch.device("cpu"), setup.objective(), World(0, 33))


class _Together(World):
    """One of two processes of which the other has sent `others`."""

    def __init__(self, others: str = "") -> None:
        super().__init__(0, 2)
        self.others = others

    def gathered(self, text: str) -> list[str]:
        return [text, self.others or text]


def test_processes_that_differ_are_refused_with_what_differs() -> None:
    _Together().check_same("settings", {"seed": 1})
    with pytest.raises(ConfigError, match=r"different settings: seed is 1 on process 0, 2 on process 1\. Start all"):
        _Together('{"seed": 2, "log_every": 3}').check_same("settings", {"seed": 1, "log_every": 3})


@pytest.mark.parametrize(
    "variable",
    ["OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE", "FLUX_JOB_SIZE"],
)
def test_tasks_that_would_train_copies_are_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv(variable, "4")
    with pytest.raises(ConfigError, match=r"matscale train --devices 4"):
        World.from_environment()
    monkeypatch.setenv("WORLD_SIZE", "1")  # each task has a run of its own
    assert World.from_environment().size == 1


def test_an_error_of_a_sum_that_shows_where_its_result_is_read_is_a_lost_process(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tiny.prepared(data)
    learner = Learner(setup.potential(), setup.config, setup.objective(), torch.device("cpu"), World())
    learner.world = world = World(0, 2)
    world.timeout = 5.0
    batch = next(Accumulation(setup.training_loader(), 1, learner.device, learner.objective).groups(0, 0))

    def aborted(tensors: object) -> None:
        raise torch.distributed.DistBackendError("communicator was aborted")  # of NCCL, as the norm is copied

    monkeypatch.setattr("matscale.core.train.learner.get_total_norm", aborted)
    with pytest.raises(PeerLost, match=r"Process 0 of 2: another process of the run ended.*was aborted"):
        learner.gradient(batch.batches, batch.labelled)


@pytest.mark.parametrize(
    ("address", "port"), [("", "29500"), ("127.0.0.1", ""), ("127.0.0.1", "x"), ("127.0.0.1", "0")]
)
def test_processes_that_have_no_place_to_meet_are_refused(
    monkeypatch: pytest.MonkeyPatch, address: str, port: str
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    world = World.from_environment()
    with (
        pytest.raises(ConfigError, match=r"MASTER_ADDR = .* Start them with torchrun"),
        world.connected(torch.device("cpu"), 5.0),
    ):
        pass


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("x", "2"), ("0", "-1"), ("0", "")])
def test_an_environment_that_makes_no_sense_is_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", size)
    with pytest.raises(ConfigError, match=r"RANK|WORLD_SIZE"):
        World.from_environment()
