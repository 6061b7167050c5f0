"""Study files and budgets that ask for too much, or for a place outside their folder: refused by name, at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from matscale.cli import main
from matscale.core.config import override
from matscale.core.data.graph import Graph
from matscale.core.data.loader import BatchBudget, Loader
from matscale.core.errors import ConfigError
from matscale.core.filenames import file_name
from matscale.core.runs.config import BatchConfig, BudgetConfig, TrainConfig
from matscale.core.study.config import Study
from matscale.core.study.plan import name, plan
from matscale.core.train.optimizer import accumulation
from matscale.core.train.optimizer.accumulation import steps_of


def study(folder, text):
    (folder / "study.toml").write_text('architectures = ["fcn"]\n' + text, encoding="utf-8")
    return Study.read(folder / "study.toml")


@pytest.mark.parametrize(
    "given", ["../../x", "/elsewhere/x", "..", ".", "", " ", "a/b", "a\\\\b", "a\\u0000b", "a\\nb"]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, given):
    with pytest.raises(ConfigError, match=r"study\.toml: name = "):
        study(tmp_path, f'name = "{given}"')


@pytest.mark.parametrize("given", ["first", "my study", "Ångström-1.5", "a+b_c"])
def test_a_name_as_people_give_them_is_taken(tmp_path, given):
    assert study(tmp_path, f'name = "{given}"').folder == Path("studies") / given


def test_a_name_of_a_thousand_letters_is_refused():
    with pytest.raises(ValueError, match="may have at most 200"):
        file_name("a" * 1000)


def test_the_name_of_a_run_fits_in_a_folder():
    for letter in "xé漢𐍈":
        labels = {"architecture": "fcn", "size": "3k", "set": letter * 5000}
        assert len(name(labels).encode()) <= 200


def test_a_grid_of_a_billion_runs_is_refused_before_it_is_made(tmp_path):
    grid = "\n".join(f"'optimizer.{key}' = {[k / 1000 for k in range(1, 1001)]}" for key in ("eps", "clip", "ema"))
    with pytest.raises(ConfigError, match=r"the grid has 1,000,000,000 runs, more than max_runs = 10,000"):
        plan(study(tmp_path, f"[grid]\n{grid}"))


def test_a_ladder_of_a_billion_rungs_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="rungs = 1000000000"):
        study(tmp_path, 'params = { from = "3k", to = "100k", rungs = 1000000000 }')


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 5000 + "]" * 5000,
        "set = {a = " + "[" * 300 + "]" * 300 + "}",
        "seeds = " + "9" * 400,
        "seeds = " + "9" * 5000,
        "budget = { epochs = " + "9" * 400 + " }",
        "[set]\n" + ".".join("a" * 500) + " = 1",
        '[set]\n"' + ".".join("a" * 5000) + '" = 1',
        'name = "\\ud800"',
        "seeds = nan",
        "budget = 1979-05-27",
        "architectures = 3",
    ],
)
def test_hostile_toml_is_a_config_error_with_the_file(tmp_path, text):
    (tmp_path / "study.toml").write_text('architectures = ["fcn"]\n' * (not text.startswith("arch")) + text)
    with pytest.raises(ConfigError, match=r"study|\.\.\.: \d+ levels"):
        plan(Study.read(tmp_path / "study.toml"))


@pytest.mark.parametrize("content", [b"\xff\xfe", b"\x00", b"name = 'a\x00'", b"\xef\xbb\xbfname"])
def test_bytes_that_are_no_text_are_a_config_error_with_the_file(tmp_path, content):
    (tmp_path / "study.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"study\.toml"):
        Study.read(tmp_path / "study.toml")


def test_a_setting_of_a_thousand_levels_is_refused():
    with pytest.raises(ConfigError, match="1000 levels"):
        override({}, [".".join("a" * 1000) + "=1"])
    assert override({}, ["a=" + "[" * 5000]) == {"a": "[" * 5000}


class Sizes:
    """A dataset of 100 structures of 1 to 9 atoms."""

    n_atoms = np.random.default_rng(0).integers(1, 10, 100)

    def __len__(self):
        return 100

    def batch(self, indices, graph=None, dtype=torch.float32):
        raise AssertionError("no batch is made to count them")


def loader(**budget):
    return Loader(Sizes(), range(100), Graph.none(), BatchBudget(**budget))


@pytest.mark.parametrize("budget", [{"structures": 7}, {"atoms": 20}])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_of_epochs_are_counted_exactly(budget, accumulate):
    batches = loader(**budget)
    assert steps_of(batches, accumulate, 50) == sum(-(-batches.n_batches(e) // accumulate) for e in range(50))


@pytest.mark.parametrize("budget", [{"structures": 7}, {"atoms": 20}])
def test_a_trillion_epochs_are_planned_at_once(budget, monkeypatch):
    monkeypatch.setattr(accumulation, "WALKED", 100 * 40)
    batches, asked = loader(**budget), []
    count = batches.n_batches
    monkeypatch.setattr(batches, "n_batches", lambda epoch: asked.append(epoch) or count(epoch))
    steps = steps_of(batches, 1, 10**12)
    assert len(asked) <= 40
    assert steps == pytest.approx(10**12 * np.mean([count(epoch) for epoch in range(40)]), rel=1e-9)


def test_a_budget_of_400_digits_is_refused():
    with pytest.raises(ConfigError, match="epochs"):
        BudgetConfig.parse({"epochs": 10**400})


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('lr = "rule.toml"', "[fcn]\na = 0.3\nb = 1e10"),
        ('lr = "rule.toml"', "[fcn]\na = 0.3\nb = -1e10"),
        ('lr = "rule.toml"', "fcn = 3"),
        ('output = "a\\u0000b"', ""),
        (f'output = "{"a" * 300}"', ""),
        ("[set]\narchitecture = 3", ""),
        ("[set]\narchitecture = {config = 3}", ""),
        ("[set]\ndata = 3", ""),
        ("[set]\nstart = 3", ""),
        ("[grid]\narchitecture = [3]", ""),
    ],
)
def test_a_value_of_the_wrong_kind_is_a_config_error(alloys, tmp_path, text, rule):
    (tmp_path / "rule.toml").write_text(rule)
    data = f'params = ["3k"]\ndata.path = "{alloys.path}"\n'
    with pytest.raises(ConfigError, match=r"rule\.toml|output|set: |expected a table"):
        plan(study(tmp_path, data + text))


def test_settings_that_are_no_table_are_a_config_error():
    with pytest.raises(ConfigError, match="here = 3: expected a table of keys"):
        BudgetConfig.parse(3, "here")


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [
        ('[grid]\n"optimizer" = [{clip = 1.0}]\n"optimizer.clip" = [2.0]', "optimizer", "optimizer.clip"),
        ('[grid]\n"optimizer.clip" = [1.0]\n"optimizer" = [{clip = 2.0}]', "optimizer.clip", "optimizer"),
        ('[grid]\n"schedule" = ["cosine"]\n"schedule.kind" = ["wsd"]', "schedule", "schedule.kind"),
        ('[grid]\n"optimizer.clip" = [1.0]\noptimizer = {clip = [2.0]}', "optimizer.clip", "optimizer.clip"),
        ('[set]\n"optimizer.clip" = 1.0\noptimizer = {clip = 2.0}', "optimizer.clip", "optimizer.clip"),
        ('[set]\n"schedule" = "cosine"\n"schedule.kind" = "wsd"', "schedule", "schedule.kind"),
    ],
)
def test_a_key_beside_a_key_within_it_is_refused_with_both_names(tmp_path, text, first, second):
    with pytest.raises(ConfigError, match=f"'{first}' and '{second}' set the same key"):
        plan(study(tmp_path, text))


def test_a_table_beside_another_key_of_it_is_one_dimension_more(alloys, tmp_path):
    grid = '[grid]\n"optimizer" = [{clip = 1.0}, {clip = 2.0}]\n"optimizer.eps" = [1e-8, 1e-7]'
    data = f'params = ["3k"]\nbudget = {{steps = 2}}\ndata.path = "{alloys.path}"\n'
    found = {(r.config.optimizer.clip, r.config.optimizer.eps) for r in plan(study(tmp_path, data + grid)).runs}
    assert found == {(1.0, 1e-8), (1.0, 1e-7), (2.0, 1e-8), (2.0, 1e-7)}


@pytest.mark.parametrize("letters", ["a" * 5000, "a/" * 2500])
def test_a_path_that_no_disk_holds_is_refused_by_its_field(tmp_path, letters):
    with pytest.raises(ConfigError, match=r"study\.toml: data\.path"):
        study(tmp_path, f'data.path = "{letters}"')
    for field in ("data.path", "start.run"):
        with pytest.raises(ConfigError, match=rf"{field}"):
            TrainConfig.parse(override({}, [f"{field}={letters}"]))


def test_a_step_of_a_trillion_batches_is_refused_with_the_reason():
    with pytest.raises(ConfigError, match=r"accumulate.*65,536.*held in memory together"):
        TrainConfig.parse({"batch": {"accumulate": 10**12}})
    assert BatchConfig.parse({"accumulate": 65536}).accumulate == 65536


def test_a_dataset_is_split_once_for_all_seeds_of_a_study(alloys, tmp_path, monkeypatch):
    from matscale.core.train.data import parts

    asked = []
    monkeypatch.setattr("matscale.core.study.plan.parts", lambda *given: asked.append(1) or parts(*given))
    data = f'params = ["3k"]\nbudget = {{steps = 2}}\ndata = {{path = "{alloys.path}", fractions = [0.5, 1.0]}}\n'
    runs = plan(study(tmp_path, f"{data}seeds = {list(range(20))}")).runs
    assert (len(runs), len(asked)) == (40, 2)
    assert all(run.n_train == len(parts(alloys, run.config)[0]) for run in runs)


@pytest.mark.parametrize("command", [["evaluate"], ["data", "info"], ["train", "--arch", "fcn", "--from"], ["fit"]])
def test_a_path_of_5000_letters_on_the_command_line_is_named(command):
    done = CliRunner().invoke(main, [*command, "a" * 5000])
    assert (done.exit_code, len(done.output) < 400) == (2, True)
    assert "too long" in done.output or "file systems hold names" in done.output


def test_the_run_that_a_study_begins_with_is_named(alloys, tmp_path):
    text = f'params = ["3k"]\ndata.path = "{alloys.path}"\n[set.start]\nrun = "{"a" * 5000}"'
    with pytest.raises(ConfigError, match=r"start: run = .*file systems hold names"):
        plan(study(tmp_path, text))


@pytest.mark.parametrize(
    "text", ["[set]\ncompute.threads = 1000000", "[local]\nworkers = 10000", "[local]\nthreads = 10000"]
)
def test_more_threads_and_processes_than_a_machine_starts_are_refused(tmp_path, text):
    with pytest.raises(ConfigError, match=r"(threads|workers) = 10+: .*less than or equal to 1024"):
        plan(study(tmp_path, text))


@pytest.mark.parametrize("command", [["data", "pack", "x"], ["data", "make"], ["sweep", "x.toml"], ["tune"]])
def test_more_workers_than_a_machine_starts_are_a_usage_error(command, tmp_path):
    result = CliRunner().invoke(main, [*command, "--workers", "100000"])
    assert (result.exit_code, "1<=x<=1024" in result.stderr) == (2, True)


def test_a_wait_that_no_clock_holds_is_refused():
    with pytest.raises(ConfigError, match=r"compute\.timeout = 1e\+300: .*less than or equal to"):
        TrainConfig.parse({"architecture": {"name": "fcn"}, "compute": {"timeout": 1e300}})
