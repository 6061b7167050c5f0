"""Learning rates, budgets, weight decay and the moving average, against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from matscale.core.errors import MatscaleError
from matscale.core.runs.config import BudgetConfig, OptimizerConfig, ScheduleConfig
from matscale.core.train.optimizer.average import Average
from matscale.core.train.optimizer.optim import adamw, decays, load_optimizer_tensors, optimizer_tensors, set_lr
from matscale.core.train.optimizer.schedule import Budget, lr_factor

COSINE = ScheduleConfig()


def factor(step: int, total: int, config: ScheduleConfig = COSINE) -> float:
    budget = Budget(steps=total)
    return lr_factor(budget.progress(step, 0.0, 0.0), config, budget.warmup(config.warmup))


def test_the_cosine_has_omat24s_values() -> None:
    assert factor(0, 1000) == pytest.approx(0.2)
    assert factor(5, 1000) == pytest.approx(0.6)
    assert factor(10, 1000) == pytest.approx(1.0)
    # From there the cosine of the whole run: a tiny drop after the warm-up.
    assert factor(11, 1000) == pytest.approx(0.01 + 0.495 * (1 + math.cos(math.pi * 0.011)), rel=1e-12)
    assert factor(500, 1000) == pytest.approx(0.505)
    assert factor(1000, 1000) == pytest.approx(0.01)
    assert factor(5000, 1000) == pytest.approx(0.01)


@pytest.mark.parametrize("total", [1, 2, 99])
def test_a_run_of_few_steps_has_no_warm_up_and_divides_by_nothing(total: int) -> None:
    assert factor(0, total) == pytest.approx(1.0)
    assert all(0 < factor(step, total) <= 1 for step in range(total + 1))


def test_wsd_is_stable_and_then_falls_like_one_minus_the_root() -> None:
    wsd = ScheduleConfig(kind="wsd", decay=0.2, floor=0.0)
    assert factor(11, 1000, wsd) == 1.0
    assert factor(800, 1000, wsd) == 1.0
    assert factor(850, 1000, wsd) == pytest.approx(0.5)
    assert factor(1000, 1000, wsd) == pytest.approx(0.0)
    linear = ScheduleConfig(kind="wsd", decay=0.2, floor=0.0, decay_shape="linear")
    assert factor(850, 1000, linear) == pytest.approx(0.75)
    assert factor(1000, 1000, ScheduleConfig(kind="wsd", decay=0.0)) == 1.0


def test_a_constant_schedule_stays_up() -> None:
    assert [factor(s, 1000, ScheduleConfig(kind="constant")) for s in (10, 500, 1000)] == [1.0, 1.0, 1.0]


def test_the_budget_that_is_used_most_sets_the_progress() -> None:
    budget = Budget.of(BudgetConfig(steps=100, max_time=60, max_flops=1e9), steps_of_epochs=200)
    assert budget.steps == 100
    assert budget.progress(50, 6.0, 1e8) == 0.5
    assert budget.progress(50, 54.0, 1e8) == 0.9
    assert budget.progress(50, 54.0, 2e9) == 2.0
    assert Budget.of(BudgetConfig(max_time=60), None).warmup(0.01) == 0.01


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.element = nn.Embedding(5, 4)
        self.norm = nn.LayerNorm(4)
        self.linear = nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.ones(()))


def test_decay_spares_norms_biases_embeddings_and_scalars() -> None:
    torch.manual_seed(0)
    model = Mixed()
    assert [name for name, does in decays(model).items() if does] == ["linear.weight"]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer = adamw(model, OptimizerConfig(lr=0.1, weight_decay=0.5))
    optimizer.step()
    for name, p in model.named_parameters():
        assert_close(p.detach(), before[name] * (0.95 if name == "linear.weight" else 1.0))


def test_the_optimizer_state_round_trip_continues_bit_for_bit() -> None:
    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, n: int, start: int) -> None:
        for k in range(start, start + n):
            set_lr(optimizer, 0.01 / (k + 1))
            g = torch.Generator().manual_seed(k)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=g)
            optimizer.step()

    torch.manual_seed(0)
    unbroken, resumed = Mixed(), Mixed()
    one = adamw(unbroken, OptimizerConfig())
    steps(unbroken, one, 3, 0)
    resumed.load_state_dict(unbroken.state_dict())
    two = adamw(resumed, OptimizerConfig())
    load_optimizer_tensors(resumed, two, {k: v.clone() for k, v in optimizer_tensors(unbroken, one).items()})
    steps(unbroken, one, 3, 3)
    steps(resumed, two, 3, 3)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters()))


def test_optimizer_state_of_another_model_is_refused() -> None:
    model = nn.Linear(2, 2)
    with pytest.raises(MatscaleError, match=r"other\.weight"):
        load_optimizer_tensors(model, adamw(model, OptimizerConfig()), {"other.weight.exp_avg": torch.zeros(1)})


def test_the_average_follows_its_recursion_and_swaps_in_and_out() -> None:
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = Average(model, decay=0.5)
    expected = 0.0
    for step in range(1, 9):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(model, step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert average.weights["weight"].item() == pytest.approx(expected)
    with average.swapped(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 8.0
    assert average.state(model)["weight"].item() == pytest.approx(expected)


def test_a_tied_weight_is_averaged_under_both_its_names() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].weight = model[0].weight
    average = Average(model, decay=0.9)
    with torch.no_grad():
        model[0].weight.zero_()
    average.update(model, 100)
    state = average.state(model)
    assert torch.equal(state["0.weight"], state["1.weight"])
    assert state["0.weight"].any()
    assert not model[0].weight.any()
