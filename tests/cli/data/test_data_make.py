"""`matscale data make` and `fetch`, called as commands."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from matscale.cli.data.make import fetch, make
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import ConfigError, DataError


def run(command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments, catch_exceptions=False)


def test_make_writes_the_dataset_that_was_asked_for(tmp_path):
    options = ["--n", "6", "--elements", "Cu,Ni", "--prototypes", "fcc,l12", "--temperatures", "300", "--seed", "7"]
    result = run(make, "-o", str(tmp_path / "d"), *options, "--set", "per_parent=3", "--workers", "1", "--json")
    summary = json.loads(result.stdout)
    assert summary["n_structures"] == 6
    assert summary["labels_by"].startswith("surrogate: emt")
    assert set(summary["elements"]) <= {"Cu", "Ni"}
    assert summary["hash"] == PackedDataset.open(tmp_path / "d").hash
    recipe = (tmp_path / "d" / "recipe.toml").read_text(encoding="utf-8")
    for line in ("seed = 7", "per_parent = 3", 'labeler = "emt"'):
        assert line in recipe
    assert "Making" in result.stderr


def test_a_recipe_that_lies_beside_a_dataset_repeats_it(tmp_path):
    run(make, "-o", str(tmp_path / "first"), "--n", "3", "--elements", "Cu", "--prototypes", "bcc", "--workers", "1")
    run(make, "-o", str(tmp_path / "second"), "--config", str(tmp_path / "first" / "recipe.toml"))
    first, second = (PackedDataset.open(tmp_path / name) for name in ("first", "second"))
    assert first.hash == second.hash


def test_the_help_states_the_defaults_of_the_recipe():
    text = " ".join(run(make, "--help").output.split())
    recipe = Recipe()
    for values in ((recipe.n,), recipe.rattle_temperatures, recipe.dynamics_temperatures, (recipe.seed,)):
        assert f"[default: {','.join(f'{v:g}' for v in values)}]" in text
    for name in recipe.prototypes:
        assert name in text
    for key in set(Recipe.model_fields) - {"n", "elements", "prototypes", "files", "seed"}:
        assert key in text or key.endswith("_temperatures")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--labeler", "etm"], "emt"),
        (["--elements", "Fe"], "has no element 'Fe'"),
        (["--set", "per_parnt=3"], "per_parent"),
        (["--prototypes", "fccc"], "Did you mean 'fcc'"),
        (["--set", "strain=-1"], "strain"),
    ],
)
def test_make_answers_a_wrong_option_with_the_right_one(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        run(make, "-o", str(tmp_path / "d"), *options)
    assert list(tmp_path.iterdir()) == []


def test_a_list_of_temperatures_must_be_numbers(tmp_path):
    result = run(make, "-o", str(tmp_path / "d"), "--temperatures", "300,hot")
    assert result.exit_code == 2
    assert "hot" in result.stderr


@pytest.mark.parametrize("idle", ["prototypes", "elements"])
def test_options_of_prototypes_are_refused_where_a_file_gives_the_parents(tmp_path, idle):
    (tmp_path / "a.xyz").write_text("1\n\nCu 0 0 0\n")
    with pytest.raises(ConfigError, match=f"--{idle}: the parents are taken from .*a.xyz"):
        run(make, "-o", str(tmp_path / "d"), "--from", str(tmp_path / "a.xyz"), f"--{idle}", "fcc")


def test_fetch_of_an_unknown_name_tells_the_nearest():
    with pytest.raises(DataError, match="Did you mean 'salex'"):
        run(fetch, "salx")
