"""From a study to its runs: the whole grid, every run once, under a name and an identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matscale.core.data.store.packed import PackedDataset
from matscale.core.errors import ConfigError, PluginError
from matscale.core.hosting import observers
from matscale.core.hosting.host import get
from matscale.core.study.identity import WITHOUT_EFFECT, identity
from matscale.core.study.lr_law import LRLaw, Power, write_lr_law
from matscale.core.train.data import parts
from studies import planned


def test_the_grid_is_the_product_of_its_dimensions(tmp_path: Path, data: Path) -> None:
    plan = planned(
        tmp_path,
        data,
        architectures=["fcn", {"name": "schnet", "params": ["2k"], "lr": [1e-3, 1e-2]}],
        data={"path": str(data), "fractions": [0.5, 1.0], "counts": [3]},
        grid={"optimizer.weight_decay": [0.0, 0.1], "batch": {"structures": [2, 4]}},
    )
    per_size = 3 * 2 * 4  # subsets, seeds, further keys
    assert len(plan.runs) == 2 * per_size + 2 * per_size
    assert len({run.path for run in plan.runs}) == len({run.identity for run in plan.runs}) == len(plan.runs)
    fcn = {run.parameters["total"] for run in plan.runs if run.config.architecture.name == "fcn"}
    assert {round(n / 1000) for n in fcn} == {2, 3}
    assert {run.n_train for run in plan.runs} == {3, 18, 36}
    assert {run.config.optimizer.weight_decay for run in plan.runs} == {0.0, 0.1}
    assert {run.config.batch.structures for run in plan.runs} == {2, 4}
    assert {run.config.optimizer.lr for run in plan.runs} == {3e-3, 1e-3, 1e-2}


def test_runs_of_all_seeds_are_validated_on_the_same_structures(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, data={"path": str(data), "fractions": [0.5, 1.0], "validation_seed": 7})
    assert {run.config.seed for run in plan.runs} == {0, 1}
    drawn = [parts(PackedDataset.open(data), run.config) for run in plan.runs]
    assert len({tuple(validation) for _, validation in drawn}) == 1
    assert len({tuple(train) for train, _ in drawn}) == 3  # a subset for each seed, and all


def test_what_an_architecture_sets_goes_above_what_the_study_sets(tmp_path: Path, data: Path) -> None:
    architectures = [{"name": "fcn", "params": ["2k"], "set": {"optimizer.clip": 1.0}}]
    plan = planned(tmp_path, data, architectures=architectures, set={"optimizer": {"clip": 5.0, "ema": 0.5}})
    assert {(run.config.optimizer.clip, run.config.optimizer.ema) for run in plan.runs} == {(1.0, 0.5)}


def test_a_published_size_and_keys_of_the_architecture_reach_the_runs(tmp_path: Path, data: Path) -> None:
    architectures = [{"name": "schnet", "sizes": ["ladder-02"], "set": {"architecture.config.cutoff": 4.0}}]
    plan = planned(tmp_path, data, architectures=architectures)
    config = plan.runs[0].config.architecture.config
    assert (config["hidden"], config["cutoff"]) == (get("schnet").size("ladder-02").hidden, 4.0)


def test_variants_of_an_architecture_have_names_of_their_own(tmp_path: Path, data: Path) -> None:
    smooth = {"name": "schnet", "variant": "short", "params": ["2k"], "set": {"architecture.config.cutoff": 4.0}}
    plan = planned(tmp_path, data, architectures=[{"name": "schnet", "params": ["2k"]}, smooth], seeds=[0])
    plain, short = plan.runs
    assert plain.path.name.startswith("schnet-2k-seed0")
    assert short.path.name.startswith("schnet_short-2k-seed0")
    assert (short.config.labels["architecture"], short.config.labels["variant"]) == ("schnet", "short")
    assert "variant" not in plain.config.labels
    assert not plan.notes


def test_two_models_under_one_name_are_noted(tmp_path: Path, data: Path) -> None:
    entries = [{"name": "schnet", "set": {"architecture.config.cutoff": cutoff}} for cutoff in (4.0, 5.0)]
    plan = planned(tmp_path, data, architectures=entries)
    assert plan.notes == [
        "schnet: its entries set different models, but laws would treat them as one. Give each a `variant`."
    ]
    rates = [{"name": "schnet", "params": [n], "lr": [lr]} for n, lr in (("2k", 1e-2), ("3k", 1e-3))]
    assert not planned(tmp_path, data, architectures=rates).notes


def test_all_the_data_are_one_run_however_it_is_said(tmp_path: Path, data: Path) -> None:
    whole = planned(tmp_path, data)
    said = planned(tmp_path, data, data={"path": str(data), "fractions": [1.0]})
    assert [run.identity for run in said.runs] == [run.identity for run in whole.runs]


def test_two_sizes_that_are_the_same_model_make_one_run_and_a_note(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, params=["2k", 2001], seeds=[0])
    assert len(plan.runs) == 1
    assert "same run as another" in plan.notes[0]


def test_a_size_that_the_ladder_does_not_reach_is_noted(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, params=[10, "3k"], seeds=[0])
    (note,) = plan.notes
    assert note == f"fcn-10: has {plan.runs[0].parameters['total']} parameters, the nearest number on its ladder."


def test_the_identity_follows_what_is_computed_and_nothing_else(tmp_path: Path, data: Path) -> None:
    run = planned(tmp_path, data).runs[0]
    config = run.config
    moved = config.model_copy(update={"data": config.data.model_copy(update={"path": "/elsewhere", "in_memory": True})})
    labelled = moved.model_copy(update={"labels": {"a": 1}, "log_every": 77, "skip_nonfinite": 3})
    assert identity(labelled, "hash") == identity(config, "hash")
    assert identity(config, "other data") != identity(config, "hash")
    for update in ({"seed": 7}, {"optimizer": config.optimizer.model_copy(update={"lr": 0.5})}):
        assert identity(config.model_copy(update=update), "hash") != identity(config, "hash")


def test_every_key_without_effect_exists(tmp_path: Path, data: Path) -> None:
    plain = planned(tmp_path, data).runs[0].config
    for key in WITHOUT_EFFECT:
        owner: Any = plain
        for part in key.split("."):
            assert part in type(owner).model_fields
            owner = getattr(owner, part)


def test_the_learning_rate_follows_a_law(tmp_path: Path, data: Path) -> None:
    write_lr_law(tmp_path / "lr.toml", "fcn", LRLaw(a=0.5, b=-0.5))
    plan = planned(tmp_path, data, lr="lr.toml", seeds=[0])
    for run in plan.runs:
        assert run.config.optimizer.lr == pytest.approx(0.5 * run.parameters["non_embedding"] ** -0.5, rel=0.01)
    assert plan.runs[0].config.optimizer.lr > plan.runs[1].config.optimizer.lr


def test_one_long_run_serves_a_row_of_lengths(tmp_path: Path, data: Path) -> None:
    plan = planned(tmp_path, data, seeds=[0], params=["2k"], budget=None, wsd={"steps": [100, 10, 50], "warmup": 2})
    trunk, *branches = plan.runs
    assert trunk.is_trunk
    assert trunk.config.budget.steps == 80
    assert trunk.config.checkpoint.at == (8, 40, 80)
    assert trunk.config.schedule.kind == "constant"
    assert [run.config.budget.steps for run in branches] == [10, 50, 100]
    for run, step in zip(branches, (8, 40, 80)):
        assert run.need is not None
        assert (run.need.run, run.need.step) == (trunk.path, step)
        assert run.config.start.checkpoint == str(step)
        assert int(run.config.schedule.warmup * run.config.budget.steps) == 2
    assert len({run.identity for run in plan.runs}) == 4


def test_the_identity_of_a_branch_does_not_depend_on_where_the_study_lies(tmp_path: Path, data: Path) -> None:
    wsd = {"budget": None, "wsd": {"steps": [20]}}
    here = planned(tmp_path, data, **wsd)
    there = planned(tmp_path, data, output=str(tmp_path / "elsewhere"), **wsd)
    assert [run.identity for run in here.runs] == [run.identity for run in there.runs]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"architectures": ["fnc"]}, "Did you mean 'fcn'"),
        ({"architectures": [{"name": "schnet", "sizes": ["ladder-2"]}]}, "Did you mean 'ladder-02'"),
        ({"set": {"optimiser": {"clip": 1.0}}}, "Did you mean 'optimizer'"),
        ({"set": {"architecture": {"config": {"hiden": 3}}}}, "Did you mean 'hidden'"),
        ({"grid": {"batch.structure": [4]}}, "'structures'"),
        ({"grid": {"optimizer.clip": 3.0}}, "expected a list"),
        ({"grid": {"optimizer.clip": []}}, "at least one"),
        ({"grid": {"seed": [1, 2]}}, "is set by `seeds`"),
        ({"set": {"optimizer": {"lr": 0.1}}}, "is set by `lr`"),
        ({"set": {"budget": {"epochs": 2}}}, "is set by `budget`"),
        ({"wsd": {"steps": [20]}, "budget": None, "set": {"schedule.kind": "wsd"}}, "is set by `wsd`"),
        ({"wsd": {"steps": [4], "warmup": 3}, "budget": None}, "no step is left between"),
        ({"lr": "none.toml"}, "none.toml: cannot be read"),
        ({"set": {"start.run": "gone"}}, "gone: is not a run"),
        ({"architectures": [{"name": "fcn", "variant": "a b"}]}, "variant"),
        ({"data": {"path": "etm"}}, "There is no dataset 'etm'"),
        ({"set": {"trackers": ["wandbb"]}}, "There is no tracker 'wandbb'. Did you mean 'wandb'"),
        ({"set": {"plugins": ["nobody"]}}, "There is no plugin 'nobody'"),
    ],
)
def test_a_mistake_is_named_with_what_is_right(tmp_path: Path, data: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(Exception, match=r".") as error:
        planned(tmp_path, data, **values)
    assert told in str(error.value)
    assert getattr(error.value, "exit_code", None) in (2, 3)


def test_a_tracker_whose_package_is_missing_ends_a_study_before_any_run_of_it(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observers, "find_spec", lambda module: None)
    with pytest.raises(PluginError, match=r"there is no module 'wandb'. Install what it needs: pip install"):
        planned(tmp_path, data, set={"trackers": ["wandb"]})


def test_a_law_for_another_architecture_is_no_law(tmp_path: Path, data: Path) -> None:
    write_lr_law(tmp_path / "lr.toml", "schnet", LRLaw(a=0.5, b=-0.5))
    with pytest.raises(ConfigError, match=r"no learning rate for 'fcn'.*matscale tune --arch fcn"):
        planned(tmp_path, data, lr="lr.toml")


def test_a_law_in_the_data_sets_rate_and_batch_by_what_each_run_sees(tmp_path: Path, data: Path) -> None:
    law = Power(a=0.5, b=0.0, c=0.5, verdict="rejected", reasons=("e: it bends",))
    write_lr_law(tmp_path / "lr.toml", "fcn", LRLaw(a=0.5, b=-0.5, c=0.25, batch_law=law))
    plan = planned(tmp_path, data, lr="lr.toml", seeds=[0], params=["2k"], budget={"epochs": [1, 4]}, set=None)
    one, four = plan.runs
    assert four.config.optimizer.lr == pytest.approx(one.config.optimizer.lr * 4**0.25, rel=0.01)
    assert one.config.batch.structures == round(0.5 * one.n_train**0.5)
    assert four.config.batch.structures == round(0.5 * (4 * four.n_train) ** 0.5)
    assert any("the batch of fcn is rejected: e: it bends" in note for note in plan.notes)
    with pytest.raises(ConfigError, match="needs the number of structures that a run sees"):
        planned(tmp_path, data, lr="lr.toml", budget={"flops": ["1e9"]}, set=None)
