"""`matscale data make` and `fetch`, called as commands."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.cli.data.make import fetch, make
from matscale.core.data.named import download
from matscale.core.data.named.published import SETS
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import ConfigError, DataError
from webserver import serving


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


def test_the_list_of_published_datasets_has_size_licence_and_citation():
    rows = run(fetch, "--list").stdout.splitlines()
    assert rows[1].split()[:4] == ["mattersim", "8.8", "MB", "MIT"]
    assert rows[1].endswith("arXiv:2405.04967")
    assert len(rows) == 1 + len(SETS)
    assert all("CC BY 4.0" in row and "arXiv:2410.12771" in row for row in rows if row.startswith(("omat24", "salex")))


@pytest.mark.network
@pytest.mark.parametrize("options", [(), ("--json",)])
def test_fetch_prints_licence_and_citation(tmp_path, monkeypatch, options):
    body = b'1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3 energy=-3.7\nCu 0 0 0\n'
    with serving() as server:
        files, server.files["/here/a.xyz"] = {"here/a.xyz": hashlib.sha256(body).hexdigest()}, body
        monkeypatch.setitem(SETS, "mattersim", replace(SETS["mattersim"], base=server.url, files=files))
        monkeypatch.delenv("MATSCALE_DATA_URL", raising=False)
        told = run(fetch, "mattersim", "-o", str(tmp_path / "d"), "--workers", "1", *options).stdout
    expected = {"licence": "MIT", "citation": "H. Yang et al., MatterSim, arXiv:2405.04967"}
    if options:
        assert {key: json.loads(told)[key] for key in expected} == expected
    else:
        assert told.splitlines()[1:] == [f"{key}: {value}" for key, value in expected.items()]


def test_a_sweep_without_its_data_and_a_network_prints_the_command_that_brings_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(download, "PAUSE", 0.0)
    monkeypatch.setenv("MATSCALE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MATSCALE_DATA_URL", "http://127.0.0.1:9")
    (tmp_path / "study.toml").write_text('architectures = ["fcn"]\nparams = "3k"\ndata.path = "mattersim"\n')
    failed = CliRunner().invoke(main, ["sweep", "study.toml"])
    assert failed.exit_code == 3
    assert "matscale data fetch mattersim" in failed.stderr
