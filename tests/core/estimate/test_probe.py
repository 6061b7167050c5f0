"""`--batch auto` finds the largest batch that fits, with allocators that pretend to have little memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from matscale.core.errors import ConfigError
from matscale.core.estimate import probe
from matscale.core.estimate.probe import largest, with_fitting_batch
from matscale.core.model.outputs import Outputs
from matscale.core.train.learner import Learner


@pytest.mark.parametrize(("room", "most", "found"), [(11, 100, 11), (100, 7, 7), (1, 9, 1), (0, 9, 0), (64, 64, 64)])
def test_the_search_doubles_and_bisects(room: int, most: int, found: int) -> None:
    asked: list[int] = []

    def fits(n: int) -> bool:
        asked.append(n)
        return n <= room

    assert largest(fits, most) == found
    assert max(asked) <= max(2 * room, 1)
    assert len(asked) == len(set(asked)) <= 14


def structures(data: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: float, n_processes: int = 1) -> int:
    """Batch that is found where a batch's tensors may have this many bytes."""
    monkeypatch.setattr(probe, "resident_bytes", lambda: 0)
    monkeypatch.setattr(probe, "available", lambda: int(n_bytes / probe.SHARE))
    config = with_fitting_batch(tiny.configured(data, "batch={}"), tiny.architecture(), n_processes)
    return config.batch.structures or 0


def test_on_a_cpu_the_batch_grows_with_the_memory_and_shrinks_with_the_processes(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [structures(data, monkeypatch, n_bytes) for n_bytes in (2e5, 4e5, 1e12)]
    assert 0 < found[0] < found[1] < found[2] == 32  # all structures of the training part
    assert 0 < structures(data, monkeypatch, 4e5, 2) < found[1]
    with pytest.raises(ConfigError, match="largest structure alone"):
        structures(data, monkeypatch, 10.0)


def stands_for_a_gpu(monkeypatch: pytest.MonkeyPatch, most_atoms: int, error: Callable[[], Exception]) -> None:
    predict, device = Learner.predict, torch.device("cpu")

    def limited(learner: Learner, batch: object) -> Outputs:
        if batch.n_atoms > most_atoms:  # type: ignore[attr-defined]
            raise error()
        return predict(learner, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Learner, "predict", limited)
    monkeypatch.setattr(probe, "device_of", lambda config, world: SimpleNamespace(type="cuda"))
    monkeypatch.setattr(probe, "configured", lambda config, found: torch.random.fork_rng(devices=[]))
    properties = SimpleNamespace(total_memory=1000)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda found: properties)
    monkeypatch.setattr("torch.cuda.reset_peak_memory_stats", lambda found: None)
    monkeypatch.setattr("torch.cuda.max_memory_reserved", lambda found: 500)
    on_gpu = probe._fits_on_gpu
    monkeypatch.setattr(probe, "_fits_on_gpu", lambda setup, found: on_gpu(setup, device))


def test_on_a_gpu_the_largest_structures_are_tried_until_the_allocator_refuses(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stands_for_a_gpu(monkeypatch, 22, lambda: torch.OutOfMemoryError("tried to allocate 80 GiB"))
    config = with_fitting_batch(tiny.configured(data), tiny.architecture())
    sizes = tiny.prepared(data).dataset.n_atoms[tiny.prepared(data).training_loader().largest(32)]
    fits = [n for n in range(1, 33) if sizes[:n].sum() <= 22]
    assert config.batch.structures == fits[-1]
    assert "auto" not in str(config.plain()["batch"])


def test_another_error_of_a_model_is_not_taken_for_one_of_memory(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stands_for_a_gpu(monkeypatch, 5, lambda: RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        with_fitting_batch(tiny.configured(data), tiny.architecture())


def test_tasks_that_might_find_different_batches_are_refused(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"torchrun has started 2\. Find the number with --dry-run"):
        with_fitting_batch(tiny.configured(data), tiny.architecture())
