"""Which process uses which device, and how processes find one another, by the environment and a mocked torch.cuda."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from matscale.core.errors import ConfigError
from matscale.core.runs.config import ComputeConfig
from matscale.core.threads import shared_among
from matscale.core.train.compute import configured, device_of
from matscale.core.train.processes import world
from matscale.core.train.processes.launch import n_processes
from matscale.core.train.processes.world import World

VARIABLES = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"]
SLURM = ["PROCID", "STEP_NUM_TASKS", "LOCALID", "STEP_NUM_NODES", "STEP_NODELIST", "LAUNCH_NODE_IPADDR", "STEP_ID"]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*VARIABLES, *(f"SLURM_{name}" for name in SLURM)):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def visible(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def set_to(n: int) -> None:
        monkeypatch.setattr("torch.cuda.device_count", lambda: n)
        monkeypatch.setattr("torch.cuda.is_available", lambda: n > 0)

    return set_to


@pytest.mark.parametrize(
    ("variables", "local_rank"),
    [({}, 0), ({"OMPI_COMM_WORLD_SIZE": "4"}, 0), ({"SLURM_STEP_NUM_TASKS": "4", "SLURM_LOCALID": "2"}, 2)],
)
def test_processes_that_use_a_model_are_no_copies_of_a_run(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], local_rank: int
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    world = World.of_inference()
    assert (world.size, world.local_rank) == (1, local_rank)


@pytest.mark.parametrize(
    ("world", "gpus", "option", "device"),
    [
        (World(), 0, "auto", "cpu"),
        (World(), 4, "auto", "cuda:0"),
        (World(), 4, "cuda", "cuda"),
        (World(), 4, "cuda:2", "cuda:2"),
        (World(), 4, "cpu", "cpu"),
        (World(3, 4, 3), 0, "auto", "cpu"),
        (World(3, 4, 3), 4, "cpu", "cpu"),
        (World(3, 4, 3), 4, "auto", "cuda:3"),
        (World(3, 4, 3), 4, "cuda", "cuda:3"),
        (World(3, 4, 3), 1, "auto", "cuda:0"),  # Slurm shows each task its own GPU
        (World(3, 4, 3), 1, "cuda", "cuda:0"),
        (World(3, 4, 3), 1, "cuda:0", "cuda:0"),
        (World(7, 8, 3), 4, "cuda", "cuda:3"),  # the second of two machines
        (World(0, 4, 0), 4, "cuda:0", "would use this GPU"),
        (World(3, 4, 3), 2, "auto", "Process 3 of this machine .* torch sees 2"),
        (World(3, 4, 3), 2, "cuda", "Process 3 of this machine .* torch sees 2"),
        (World(0, 2, 0), 0, "cuda", "torch sees 0 GPUs"),
        (World(), 1, "cuda:1", "torch sees 1 GPUs"),
    ],
)
def test_each_process_has_its_own_device(
    visible: Callable[[int], None], world: World, gpus: int, option: str, device: str
) -> None:
    visible(gpus)
    if " " in device:
        with pytest.raises(ConfigError, match=device):
            device_of(ComputeConfig(device=option), world)
    else:
        assert str(device_of(ComputeConfig(device=option), world)) == device


def test_the_gpu_of_a_run_is_the_current_one(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    monkeypatch.setattr("torch.random.fork_rng", lambda devices: pytest.MonkeyPatch.context())
    with configured(ComputeConfig(), torch.device("cuda", 3)):
        assert chosen == [torch.device("cuda", 3)]


def test_nccl_knows_the_gpu_of_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, object] = {}
    monkeypatch.setattr("torch.distributed.init_process_group", lambda *a, **k: given.update(k, backend=a[0]))
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    monkeypatch.setattr(
        "matscale.core.train.processes.world.rendezvous", lambda *a, **k: iter([(torch.distributed.HashStore(), 3, 4)])
    )
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with World(3, 4, 3).connected(torch.device("cuda", 3), 60):
        assert (given["backend"], given["device_id"]) == ("cpu:gloo,cuda:nccl", torch.device("cuda", 3))
    with World(3, 4, 3).connected(torch.device("cpu"), 60):
        assert (given["backend"], given["device_id"]) == ("gloo", None)


STEP = {"PROCID": "5", "STEP_NUM_TASKS": "8", "LOCALID": "1", "STEP_NUM_NODES": "2", "STEP_ID": "3"}


@pytest.mark.parametrize(
    ("changes", "meeting"),
    [
        ({"STEP_NODELIST": "gpu[003-004]", "LAUNCH_NODE_IPADDR": "10.0.0.1"}, "tcp://gpu003:"),
        ({"LAUNCH_NODE_IPADDR": "10.0.0.1"}, "tcp://10.0.0.1:"),
        ({"STEP_NUM_NODES": "1", "STEP_NODELIST": "gpu003"}, "tcp://127.0.0.1:"),
    ],
)
def test_tasks_of_srun_find_one_another(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str], meeting: str) -> None:
    def world(job: str) -> World:
        monkeypatch.setenv("SLURM_JOB_ID", job)
        return World.from_environment()

    for name, value in {**STEP, **changes}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = world("1234")
    assert (found.rank, found.size, found.local_rank) == (5, 8, 1)
    assert found.meeting.startswith(meeting)
    port = int(found.meeting.rpartition(":")[2])
    assert 1024 < port < 32768
    assert world("1234").meeting == found.meeting != world("1235").meeting
    monkeypatch.setenv("WORLD_SIZE", "1")  # each task trains a run of its own
    assert world("1234").size == 1


@pytest.mark.parametrize("changes", [{"PROCID": "8"}, {"LOCALID": "x"}, {"STEP_NUM_NODES": "2"}])
def test_a_step_of_slurm_that_makes_no_sense_is_refused(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]
) -> None:
    for name, value in {**STEP, **changes}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    with pytest.raises(ConfigError, match=r"SLURM_(PROCID = 8|LOCALID = 'x'|STEP_NODELIST)"):
        World.from_environment()


@pytest.mark.parametrize(
    ("devices", "option", "gpus", "n"),
    [
        (None, "auto", 0, 1),
        (None, "auto", 4, 4),
        (None, "cpu", 4, 1),
        (None, "cuda:2", 4, 1),
        (3, "auto", 0, 3),
        (3, "cpu", 0, 3),
        (3, "cuda", 4, 3),
        (1, "cuda:2", 4, 1),
        (3, "auto", 2, "--devices 3: torch sees 2 GPUs"),
        (1, "cuda", 0, "torch sees 0 GPUs"),
        (2, "cuda:0", 4, "names one GPU"),
    ],
)
def test_devices_are_as_many_processes_as_there_are_gpus_or_as_given(
    visible: Callable[[int], None], devices: int | None, option: str, gpus: int, n: int | str
) -> None:
    visible(gpus)
    if isinstance(n, str):
        with pytest.raises(ConfigError, match=n):
            n_processes(devices, ComputeConfig(device=option))
    else:
        assert n_processes(devices, ComputeConfig(device=option)) == n


def test_a_process_of_several_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="a launcher has started 2 already"):
        n_processes(2, ComputeConfig())


def test_processes_share_the_cores_unless_a_number_of_threads_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("matscale.core.threads.usable_cores", lambda: 8)
    assert [shared_among(n) for n in (1, 3, 20)] == [{}, {"OMP_NUM_THREADS": "2"}, {"OMP_NUM_THREADS": "1"}]
    monkeypatch.setenv("MKL_NUM_THREADS", "8")
    assert shared_among(2) == {}


@pytest.mark.parametrize(("agents", "prefixes"), [("1", ["start 0", "start 1"]), ("2", ["start 0", "start 0"])])
def test_restarted_processes_of_one_agent_do_not_read_the_addresses_of_dead_ones(
    monkeypatch: pytest.MonkeyPatch, agents: str, prefixes: list[str]
) -> None:
    monkeypatch.setenv("GROUP_WORLD_SIZE", agents)
    found = []
    for count in ("0", "1"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", count)
        found.append(world._attempt())
    assert found == prefixes
