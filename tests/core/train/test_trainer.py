"""What the training loop promises: learning, budgets, accumulation, what is not finite, what is counted."""

from __future__ import annotations

import itertools
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import tiny
from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, DataError, MatscaleError, NonFiniteLossError
from matscale.core.model.architecture import DatasetInfo
from matscale.core.runs import checkpoint
from matscale.core.runs.config import LossConfig, TrainConfig
from matscale.core.runs.record import Run
from matscale.core.train.evaluation import evaluate
from matscale.core.train.learner import Learner
from matscale.core.train.loss import LabelObjective
from matscale.core.train.processes.world import World
from matscale.core.train.session import train
from matscale.core.train.setup import prepare, resolved
from matscale.plugins.losses import register_losses

CPU = torch.device("cpu")
LOSSES = {loss.name: loss for loss in register_losses()}


def run_tiny(data: Path, path: Path, *changes: str, name: str = "springs") -> Run:
    return train(tiny.configured(data, *changes, name=name), path, architecture=tiny.architecture(name))


def test_training_lowers_the_loss(data: Path, tmp_path: Path) -> None:
    run = run_tiny(
        data,
        tmp_path / "r",
        "budget.steps=150",
        "optimizer.lr=0.01",
        "architecture.config.dropout=0",
        "evaluation.every=50",
        "checkpoint.every=150",
    )
    losses = [row["loss"] for row in run.metrics("validation")]
    assert losses[-1] < 0.7 * losses[0]
    assert run.info["best"]["loss"] == min(losses)
    assert run.best == run.info["best"]["step"]


@pytest.mark.parametrize("name", ["springs", "columns"])
def test_overfitting_a_few_structures_drives_the_loss_towards_zero(data: Path, tmp_path: Path, name: str) -> None:
    changes = ["data.overfit=2", "budget.steps=400", "optimizer.lr=0.02", "augmentation.rotate=false", "log_every=50"]
    changes += ["evaluation.every=400", "architecture.config.width=32", "checkpoint.every=400"]
    run = run_tiny(data, tmp_path / "run", *changes, name=name)
    rows = list(run.metrics("train"))
    assert rows[-1]["loss"] < 0.15 * rows[0]["loss"]
    assert run.config.architecture.config["dropout"] == 0
    assert run.info["dataset"]["train"] == run.info["dataset"]["validation"] == 2


def test_every_row_counts_what_was_spent_so_far(data: Path, tmp_path: Path) -> None:
    run = run_tiny(data, tmp_path / "run", "batch.structures=5", "log_every=1")
    dataset = PackedDataset.open(data)
    rows = list(run.metrics("train"))
    assert [row["step"] for row in rows] == list(range(1, 21))
    n_train = run.info["dataset"]["train"]
    per_epoch = -(-n_train // 5)
    assert rows[per_epoch - 1]["structures"] == n_train
    assert rows[per_epoch - 1]["epoch"] == 1
    train_rows = prepare(run.config, tiny.architecture()).train
    assert rows[per_epoch - 1]["atoms"] == dataset.n_atoms[train_rows].sum()
    for key in ("flops", "structures", "atoms", "edges"):
        assert all(a[key] < b[key] for a, b in itertools.pairwise(rows))
    validations = list(run.metrics("validation"))
    assert validations[0]["validation_flops"] > 0
    assert rows[-1]["flops"] == run.info["flops"]


def test_the_validation_rows_agree_with_evaluate(data: Path, tmp_path: Path) -> None:
    run = run_tiny(data, tmp_path / "run")
    setup = prepare(run.config, tiny.architecture())
    potential = setup.potential()
    potential.load_state_dict(checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last)))
    potential.train()
    values = evaluate(potential, setup.validation_loader().epoch(0))
    assert potential.training  # left as it was
    last = list(run.metrics("validation"))[-1]
    assert values["loss"] == last["loss"]
    assert values["forces_mae"] == last["forces_mae"]
    assert values["n_structures"] == run.info["dataset"]["validation"]


@pytest.mark.parametrize("name", ["springs", "columns"])
def test_accumulated_gradients_equal_those_of_one_large_batch(data: Path, tmp_path: Path, name: str) -> None:
    def final(*changes: str) -> dict[str, torch.Tensor]:
        path = tmp_path / changes[0]
        run = run_tiny(data, path, "architecture.config.dropout=0", "budget.steps=6", *changes, name=name)
        return checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, run.last), averaged=False)

    # 32 training structures: the fifth batch of 8, or of 2 × 4, begins the second epoch in the same order.
    large, accumulated = final("batch.structures=8"), final("batch.accumulate=2")
    for key in large:
        assert_close(large[key], accumulated[key], rtol=1e-9, atol=1e-12)


def test_a_gradient_is_that_of_the_whole_batch_where_labels_are_uneven(data: Path) -> None:
    config = resolved(tiny.configured(data, "architecture.config.dropout=0"), tiny.architecture())
    setup = prepare(config, tiny.architecture())
    batch = setup.dataset.batch(setup.train[:6], setup.graph, torch.float64)
    batch.energy[:2] = torch.nan
    batch.stress[3] = torch.nan
    objective, potential = LabelObjective(LossConfig(), LOSSES.__getitem__), setup.potential().train()

    def gradients(parts: list) -> list[torch.Tensor]:
        potential.zero_grad()
        counts = {name: sum(objective.counts(p)[name] for p in parts) for name in objective.terms}
        for part in parts:
            objective.total(objective.sums(potential(part), part), counts).backward()
        return [p.grad.clone() for p in potential.parameters()]

    for whole, split in zip(gradients([batch]), gradients(batch.split()), strict=True):
        assert_close(whole, split, rtol=1e-9, atol=1e-14)


def test_a_flop_budget_is_kept_and_anneals_the_learning_rate(data: Path, tmp_path: Path) -> None:
    config = tiny.configured(data, "log_every=1")
    values = config.plain()
    values["budget"] = {"max_flops": 400_000}
    run = train(TrainConfig.parse(values), tmp_path / "run", architecture=tiny.architecture())
    rows = list(run.metrics("train"))
    assert 300_000 < run.info["flops"] <= 400_000
    assert rows[-1]["lr"] < 0.1 * max(row["lr"] for row in rows)
    assert run.info["status"] == "completed"


def test_a_flop_budget_below_one_step_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max_flops = 10 is too small for one step"):
        run_tiny(data, tmp_path / "run", "budget.max_flops=10")


def test_a_time_budget_ends_the_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    clock = SimpleNamespace(perf_counter=lambda: 0.01 * next(ticks), time=time.time)  # runs at one pace everywhere
    monkeypatch.setattr("matscale.core.train.trainer.time", clock)
    values = tiny.configured(data).plain()
    values["budget"] = {"max_time": 1.0}
    run = train(TrainConfig.parse(values), tmp_path / "run", architecture=tiny.architecture())
    assert run.info["steps"] > 10
    assert 1.0 <= run.info["wall_s"] < 1.2
    assert list(run.metrics("train"))[-1]["lr"] < 0.1e-3


def test_epochs_are_counted_in_steps_and_end_the_run(data: Path, tmp_path: Path) -> None:
    values = tiny.configured(data, "batch.accumulate=3").plain()
    values["budget"] = {"epochs": 2}
    run = train(TrainConfig.parse(values), tmp_path / "run", architecture=tiny.architecture())
    assert run.info["epochs"] == 2
    assert run.info["steps"] == 2 * 3  # 8 batches of 4: groups of 3, 3 and 2
    assert run.info["structures"] == 2 * 32
    assert len(list(run.metrics("validation"))) == 2


def test_patience_ends_a_run_that_no_longer_improves(data: Path, tmp_path: Path) -> None:
    run = run_tiny(
        data, tmp_path / "run", "optimizer.lr=1e-30", "evaluation.every=1", "evaluation.patience=3", "budget.steps=50"
    )
    assert run.info["steps"] == 4
    assert run.info["status"] == "completed"


POISON = "architecture.config.poison=79"


def test_a_loss_that_is_not_finite_names_the_structures_and_does_not_step(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"Step 1: .*structure \d+ \((Au|CuAu|Cu\d*Au)") as caught:
        run_tiny(data, tmp_path / "run", POISON)
    assert caught.value.exit_code == 4
    run = Run.open(tmp_path / "run")
    assert run.info["status"] == "failed"
    assert "NonFiniteLossError" in run.info["error"]
    saved = checkpoint.load_weights(checkpoint.folder_of(run.checkpoint_folder, 0), averaged=False)
    fresh = prepare(run.config, tiny.architecture()).potential().state_dict()
    assert all(torch.equal(saved[k], fresh[k]) for k in saved)
    named = [int(word.split()[0]) for word in str(caught.value).split("structure ")[1:] if word[0].isdigit()]
    assert named
    assert all(79 in PackedDataset.open(data).structure(k).atomic_numbers for k in named)


@pytest.mark.parametrize(("precision", "step"), [("fp32", 1), ("fp16", 17)])
def test_a_gradient_that_stays_not_finite_ends_the_run(data: Path, tmp_path: Path, precision: str, step: int) -> None:
    # fp16: 16 halvings of its scale, from 65,536 to 1, must not have helped.
    broken = replace(tiny.architecture("columns"), build=_without_gradient)
    config = tiny.configured(data, f"compute.precision={precision}", "budget.steps=30", name="columns")
    with pytest.raises(NonFiniteLossError, match=f"Step {step}: .*norm of its gradient nan"):
        train(config, tmp_path / "run", architecture=broken)


def _without_gradient(config: tiny.TinyConfig, info: DatasetInfo) -> torch.nn.Module:
    model = tiny.Columns(config)
    model.heads.weight.register_hook(lambda gradient: gradient * torch.nan)
    return model


def test_steps_that_are_not_finite_can_be_left_out(data: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match="skip_nonfinite=1"):
        run_tiny(data, tmp_path / "run", POISON, "log_every=1")
    config = tiny.configured(data, POISON, "log_every=1", "skip_nonfinite=1000")
    run = train(config, tmp_path / "run", resume=True, architecture=tiny.architecture())
    assert run.info["skipped"] > 0
    assert run.info["steps"] == 20
    trained = list(run.metrics("train"))
    assert len(trained) == 20 - run.info["skipped"]
    assert all(np.isfinite(row["objective"]) for row in trained)


def test_a_label_that_the_loss_weighs_must_exist(tmp_path: Path) -> None:
    bare = tiny.make_dataset(tmp_path / "bare", n=12, stress=False).path
    with pytest.raises(DataError, match=r"'stress'.*--set loss\.stress_anisotropic\.weight=0"):
        run_tiny(bare, tmp_path / "run")
    off = ["loss.stress_isotropic.weight=0", "loss.stress_anisotropic.weight=0", "budget.steps=3"]
    run = run_tiny(bare, tmp_path / "run2", *off)
    assert "stress_mae" not in run.info["best"]


def test_predictions_of_fixed_samples_are_kept_at_every_validation(data: Path, tmp_path: Path) -> None:
    run = run_tiny(data, tmp_path / "run", "evaluation.every=10", "evaluation.samples=2")
    structures = json.loads((run.path / "samples.json").read_text())
    rows = list(run.samples)
    assert [row["step"] for row in rows] == [10, 20]
    for row in rows:
        assert [p["index"] for p in row["predictions"]] == [s["index"] for s in structures]
        assert all(len(p["forces"]) == len(s["positions"]) for p, s in zip(row["predictions"], structures))
    assert rows[0]["predictions"] != rows[1]["predictions"]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "tf32", "fp64"])
@pytest.mark.parametrize("name", ["springs", "columns"])
def test_every_precision_trains_and_leaves_torch_as_it_was(
    data: Path, tmp_path: Path, precision: str, name: str
) -> None:
    before = torch.get_float32_matmul_precision(), torch.get_num_threads(), torch.get_rng_state()
    changes = [f"compute.precision={precision}", "budget.steps=30", "log_every=30", "optimizer.lr=0.005"]
    run = run_tiny(data, tmp_path / "run", *changes, "compute.threads=1", "evaluation.every=15", name=name)
    first, last = run.metrics("validation")
    assert last["loss"] < first["loss"]
    assert before[:2] == (torch.get_float32_matmul_precision(), torch.get_num_threads())
    assert torch.equal(before[2], torch.get_rng_state())


def test_compiling_a_double_backward_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="second derivative"):
        run_tiny(data, tmp_path / "run", "compute.compile=true")


def test_compiling_what_does_not_claim_it_is_refused_by_name(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unclaimed = replace(tiny.architecture("columns"), compiles=False)
    monkeypatch.setattr(tiny, "architecture", lambda name: unclaimed)
    with pytest.raises(ConfigError, match=r"'columns' does not declare that it supports torch.*compiles=True"):
        run_tiny(data, tmp_path / "run", "compute.compile=true", name="columns")


def test_a_gpu_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sees"):
        run_tiny(data, tmp_path / "run", "compute.device=cuda:97")
    with pytest.raises(ConfigError, match="expected auto"):
        run_tiny(data, tmp_path / "run", "compute.device=abacus")


def test_observers_see_the_whole_run(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Watcher:
        def __getattr__(self, name: str) -> object:
            return lambda **arguments: seen.append(name)

    from matscale.core.hosting import host

    real = host.host()
    fake = SimpleNamespace(loss=real.loss, step_flops=real.step_flops, architecture=real.architecture)
    fake.observers = lambda names, architecture, trackers=(): Watcher() if tuple(names) == ("watcher",) else None
    monkeypatch.setattr("matscale.core.train.session.host", lambda: fake)
    config = tiny.configured(data, 'plugins=["watcher"]', "budget.steps=4", "evaluation.every=4", "checkpoint.every=4")
    train(config, tmp_path / "run", architecture=tiny.architecture())
    assert seen == ["run_started", "step_ended", "step_ended", "evaluated", "checkpoint_saved", "run_ended"]


def test_a_size_and_a_parameter_count_exclude_each_other(data: Path) -> None:
    with pytest.raises(ConfigError, match="--params"):
        resolved(tiny.configured(data), tiny.architecture(), size="S", n_params=100)
    config = resolved(tiny.configured(data), tiny.architecture(), n_params=1300)
    assert config.architecture.config == {"width": 10, "dropout": 0.2, "poison": 0}


def test_gradient_models_are_scaled_by_their_forces(data: Path) -> None:
    dataset = PackedDataset.open(data)
    config = resolved(tiny.configured(data), tiny.architecture())
    setup = prepare(config, tiny.architecture())
    forces = np.concatenate([dataset.structure(int(k)).forces.ravel() for k in setup.train])
    assert setup.scales.energy == pytest.approx(np.sqrt((forces**2).mean()))
    direct = prepare(
        resolved(tiny.configured(data, name="columns"), tiny.architecture("columns")), tiny.architecture("columns")
    )
    assert direct.scales.energy != setup.scales.energy
    assert direct.scales.forces == pytest.approx(setup.scales.energy)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("tried to allocate 80 GiB"),
        RuntimeError("DefaultCPUAllocator: not enough memory: 80 GiB"),
    ],
    ids=["GPU", "CPU"],
)
def test_running_out_of_memory_names_the_batch_and_says_how_to_need_less(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(learner: object, batch: object) -> None:
        raise error

    told = r"Step 1: .* on a batch of 4 structures with \d+ atoms and \d+ edges .*80 GiB.*"
    told += r"--set batch\.structures=2 --set batch\.accumulate=2"
    monkeypatch.setattr("matscale.core.train.learner.Learner.predict", full)
    with pytest.raises(MatscaleError, match=told) as caught:
        run_tiny(data, tmp_path / "run")
    assert caught.value.exit_code == 1
    with pytest.raises(MatscaleError, match="one structure, so that smaller batches do not help"):
        run_tiny(data, tmp_path / "one", "batch.structures=1")


def test_running_out_of_memory_in_a_validation_says_how_to_need_less(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")

    monkeypatch.setattr("matscale.core.train.trainer.tally", full)
    with pytest.raises(MatscaleError, match=r"after step \d+.*--set evaluation\.structures=16"):
        run_tiny(data, tmp_path / "run")


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_a_compiled_direct_model_trains_to_the_same_losses(
    data: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "inductor" and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler on a CPU")
    compiler, compiled_by = torch.nn.Module.compile, list[str]()

    def compile_by_backend(module: torch.nn.Module, **options: object) -> None:
        compiled_by.append(backend)
        compiler(module, backend=backend, **options)

    monkeypatch.setattr(torch.nn.Module, "compile", compile_by_backend)
    few = ["budget.steps=4", "log_every=1", "architecture.config.dropout=0", "evaluation.every=4"]
    plain = run_tiny(data, tmp_path / "plain", *few, name="columns")
    compiled = run_tiny(data, tmp_path / "compiled", *few, "compute.compile=true", name="columns")
    for a, b in zip(plain.metrics(), compiled.metrics(), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-9)
    assert compiled_by == [backend]


def test_the_last_checkpoint_knows_of_the_last_validation(data: Path, tmp_path: Path) -> None:
    # The last step saves before the end of the run validates it.
    changes = ["budget.steps=30", "optimizer.lr=0.01", "evaluation.every=20", "checkpoint.every=15"]
    run = run_tiny(data, tmp_path / "run", *changes)
    assert run.info["best"]["step"] == 30
    assert run.best == 30
    saved = checkpoint.load(checkpoint.folder_of(run.checkpoint_folder, 30))
    assert saved.state["position"]["validated"]["step"] == 30


def test_an_overflow_in_another_process_leaves_the_step_out_here_too(data: Path) -> None:
    class Overflowing(World):
        def replicated(self, module: torch.nn.Module, divided: bool = False) -> torch.nn.Module:
            for parameter in module.parameters():
                parameter.register_hook(lambda gradient: gradient + torch.inf)
            return module

    columns = tiny.architecture("columns")
    setup = prepare(resolved(tiny.configured(data, "compute.precision=fp16", name="columns"), columns), columns)
    objective = LabelObjective(LossConfig(), LOSSES.__getitem__)
    learner = Learner(setup.potential(), setup.config, objective, torch.device("cpu"), Overflowing())
    before = {name: p.clone() for name, p in learner.potential.named_parameters()}
    batch = setup.training_loader().batch(0, 0)
    learner.update(learner.gradient([batch], objective.counts(batch)), lr=0.1, step=1)
    assert all(torch.equal(p, before[name]) for name, p in learner.potential.named_parameters())


def test_a_gradient_is_clipped_to_its_largest_norm(data: Path) -> None:
    def norm_after_update(clip: float) -> tuple[float, float]:
        torch.manual_seed(0)  # the same dropout
        setup = prepare(
            resolved(tiny.configured(data, f"optimizer.clip={clip}"), tiny.architecture()), tiny.architecture()
        )
        learner = Learner(
            setup.potential(), setup.config, LabelObjective(LossConfig(), LOSSES.__getitem__), CPU, World()
        )
        batch = setup.training_loader().batch(0, 0)
        gradient = learner.gradient([batch], learner.objective.counts(batch))
        learner.update(gradient, lr=0.1, step=1)
        return gradient.norm, float(torch.nn.utils.get_total_norm([p.grad for p in learner.parameters]))

    free, unclipped = norm_after_update(0)
    assert unclipped == pytest.approx(free)
    assert norm_after_update(free / 7) == pytest.approx((free, free / 7), rel=1e-4)
