"""A device that is not there, or that this torch cannot use, is refused by name before a run folder is made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError
from matscale.core.runs.config import ComputeConfig, TrainConfig
from matscale.core.train.compute import device_of
from matscale.core.train.processes.world import World
from matscale.core.train.session import train

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
SRUN = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_STEP_NODELIST": "a,b"}
WORLDS: dict[str, Mapping[str, str]] = {
    "alone": {},
    "torchrun": TORCHRUN,
    "srun": {**SRUN, "SLURM_STEP_NUM_NODES": "2"},
}
FOUND = {
    # By world, option and number of visible GPUs. A task of several that sees one GPU was given it by the launcher.
    ("alone", "auto"): {0: "cpu", 1: "cuda:0", 4: "cuda:0"},
    ("alone", "cpu"): {0: "cpu", 1: "cpu", 4: "cpu"},
    ("alone", "cuda"): {0: "torch sees 0 GPUs", 1: "cuda", 4: "cuda"},
    ("alone", "cuda:1"): {0: "torch sees 0 GPUs", 1: "torch sees 1 GPUs", 4: "cuda:1"},
    ("several", "auto"): {0: "cpu", 1: "cuda:0", 4: "cuda:1"},
    ("several", "cpu"): {0: "cpu", 1: "cpu", 4: "cpu"},
    ("several", "cuda"): {0: "torch sees 0 GPUs", 1: "cuda:0", 4: "cuda:1"},
    ("several", "cuda:1"): {0: "torch sees 0 GPUs", 1: "torch sees 1 GPUs", 4: "all 8 processes would use this GPU"},
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *SRUN, "SLURM_STEP_NUM_NODES", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)


def see(monkeypatch: pytest.MonkeyPatch, n: int) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: n)
    monkeypatch.setattr("torch.cuda.is_available", lambda: n > 0)


@pytest.mark.parametrize("launcher", WORLDS)
@pytest.mark.parametrize("option", ["auto", "cpu", "cuda", "cuda:1"])
@pytest.mark.parametrize("gpus", [0, 1, 4])
def test_a_process_has_the_device_of_the_table(
    monkeypatch: pytest.MonkeyPatch, launcher: str, option: str, gpus: int
) -> None:
    see(monkeypatch, gpus)
    for name, value in WORLDS[launcher].items():
        monkeypatch.setenv(name, value)
    expected = FOUND["alone" if launcher == "alone" else "several", option][gpus]
    if " " in expected:
        with pytest.raises(ConfigError, match=expected):
            device_of(ComputeConfig(device=option), World.from_environment())
    else:
        assert str(device_of(ComputeConfig(device=option), World.from_environment())) == expected


@pytest.mark.parametrize("option", ["cuda:2", "cuda:128", "cuda:255", "cuda:256", "cuda:258", "cuda:99999999999"])
def test_a_gpu_beyond_the_last_is_refused_whatever_its_number(monkeypatch: pytest.MonkeyPatch, option: str) -> None:
    see(monkeypatch, 2)
    with pytest.raises(ConfigError, match=f"'{option}'"):
        device_of(ComputeConfig(device=option), World())


@pytest.mark.parametrize("option", ["", "gpu", "cuda:-1", "cuda:", "cuda:0:1", "CUDA", "mps", "xpu", "meta", "0"])
def test_a_device_of_another_kind_is_refused_with_what_is_known(option: str) -> None:
    with pytest.raises(ConfigError, match="expected auto, cpu, cuda, or a numbered GPU"):
        device_of(ComputeConfig(device=option), World())


def test_a_torch_for_cpus_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, 0)
    monkeypatch.setattr("torch.version.cuda", None)
    with pytest.raises(ConfigError, match="is built for CPUs only"):
        device_of(ComputeConfig(device="cuda"), World())


@pytest.mark.parametrize(
    ("device", "library", "mock"),
    [("cuda", "NCCL", "is_nccl_available"), ("cpu", "gloo", "is_gloo_available")],
)
def test_a_library_that_is_not_built_into_torch_is_named_before_the_folder_is_made(
    monkeypatch: pytest.MonkeyPatch, alloys: PackedDataset, tmp_path: Path, device: str, library: str, mock: str
) -> None:
    see(monkeypatch, 2)
    monkeypatch.setattr(f"torch.distributed.{mock}", lambda: False)
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    values = {"architecture": {"name": "fcn"}, "data": {"path": str(alloys.path)}, "compute": {"device": device}}
    with pytest.raises(ConfigError, match=f"2 processes train on {device}, but torch .* was built without {library}"):
        train(TrainConfig.parse(values), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    World().check_backend(torch.device(device))  # one process needs none
