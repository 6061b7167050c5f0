"""`study.toml`: what it takes, and what it answers to mistakes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from matscale.core.errors import ConfigError
from matscale.core.study.config import Ladder, Study
from studies import study_file


def test_a_ladder_has_equal_ratios_and_both_ends() -> None:
    assert Ladder.parse({"from": "3k", "to": "300k", "rungs": 5}).counts() == [3000, 9487, 30000, 94868, 300000]
    assert Ladder.parse({"from": "3k", "to": "3k", "rungs": 1}).counts() == [3000]


def test_a_name_stands_for_an_architecture_and_a_value_for_a_list(tmp_path: Path) -> None:
    study = Study.read(study_file(tmp_path, Path("emt"), seeds=3, lr=0.01, params="2k", budget={"epochs": 4}))
    assert [grid.name for grid in study.architectures] == ["fcn"]
    assert (study.seeds, study.lr, study.params, study.budget.epochs) == ((3,), (0.01,), (2000.0,), (4,))


def test_a_study_without_a_name_is_called_like_its_file_and_has_a_folder_of_its_own(tmp_path: Path) -> None:
    study = Study.read(study_file(tmp_path, Path("emt"), output=None))
    assert study.name == "study"
    assert study.folder == Path("studies/study")


def test_a_law_for_the_learning_rate_is_looked_for_beside_the_study(tmp_path: Path) -> None:
    assert Study.read(study_file(tmp_path, Path("emt"), lr="lr.toml")).lr == tmp_path / "lr.toml"


def test_the_table_of_a_launcher_is_kept_for_it(tmp_path: Path) -> None:
    study = Study.read(study_file(tmp_path, Path("emt"), local={"workers": 3}))
    assert study.launchers == {"local": {"workers": 3}}


def test_a_key_of_the_command_line_stands_above_that_of_the_file(tmp_path: Path) -> None:
    file = study_file(tmp_path, Path("emt"), command={"preset": "pbs", "poll": 3.0})
    study = Study.read(file, ["command.preset=sge", "retries=7"])
    assert study.launchers == {"command": {"preset": "sge", "poll": 3.0}}
    assert study.retries == 7


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"architecture": ["fcn"]}, "unknown key 'architecture'. Did you mean 'architectures'"),
        ({"slrum": {}}, "unknown key 'slrum'. Did you mean 'slurm'"),
        ({"local": {"worker": 3}}, "local: unknown key 'worker'. Did you mean 'workers'"),
        ({"slurm": {"time": "30s"}}, "is not longer than the margin"),
        ({"data": {"fraction": [0.1]}}, "unknown key 'data.fraction'. Did you mean 'fractions'"),
        ({"params": {"from": "3k", "till": "30k", "rungs": 2}}, "unknown key 'till'"),
        ({"params": {"from": "3k", "to": "300", "rungs": 2}}, "must increase from"),
        ({"params": {"from": "3k", "to": "30k", "rungs": 1}}, "must increase from"),
        ({"params": ["many"]}, "30k, 1M or 2e15"),
        ({"budget": {"epochs": 3, "steps": 4}}, "give one of them"),
        ({"wsd": {"steps": [4]}}, "leave out budget"),
        ({"seeds": []}, "the grid is empty: seeds has no value"),
        ({"architectures": []}, "the grid is empty: architectures"),
        ({"lr": []}, "the grid is empty: lr"),
        ({"data": {"fractions": []}}, "the grid is empty: data.fractions"),
        ({"data": {"fractions": [0.0]}}, "greater than 0"),
        ({"architectures": [{"name": "fcn", "params": []}]}, "params of fcn has no value"),
        (
            {"architectures": [{"name": "fcn", "size": ["x"]}]},
            "'architectures.0.size'. Did you mean 'sizes'? Known: lr,",
        ),
        ({"architectures": [{"nam": "fcn"}]}, "unknown key 'architectures.0.nam'. Did you mean 'name'"),
        ({"params": {"from": "3k", "to": "30k"}}, "params: rungs is missing"),
        ({"params": [0.3]}, "params.0 = 0.3: Input should be greater than or equal to 1"),
        ({"params": ["1e30"]}, "params.0 = '1e30'"),
        ({"slurm": 5}, "slurm = 5: expected a table"),
        ({"budget": 10}, "budget = 10: expected a table"),
        ({"slurm": {"gpus": -1}}, "gpus = -1"),
    ],
)
def test_a_mistake_is_named_with_what_is_right(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Study.read(study_file(tmp_path, Path("emt"), **values))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"lr": -1}, "lr = -1: Input should be greater than 0"),
        ({"lr": [1e-3, float("inf")]}, "lr.1 = inf: Input should be a finite number"),
        ({"params": ["2k", "abc"]}, "params.1 = 'abc': expected a count such as 30k, 1M or 2e15"),
        (
            {"architectures": [{"name": "fcn", "lr": [0.0]}]},
            "architectures.0.lr.0 = 0.0: Input should be greater than 0",
        ),
    ],
)
def test_a_value_that_may_be_of_two_kinds_gets_one_answer(tmp_path: Path, values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as error:
        Study.read(study_file(tmp_path, Path("emt"), **values))
    assert str(error.value).endswith(f"study.toml: {told}")


def test_one_architecture_or_size_needs_no_list(tmp_path: Path) -> None:
    study = Study.read(study_file(tmp_path, Path("emt"), architectures="fcn", sizes="ladder-01", params=None))
    assert [grid.name for grid in study.architectures] == ["fcn"]
    assert study.sizes == ("ladder-01",)
