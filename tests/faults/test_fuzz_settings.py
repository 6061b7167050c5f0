"""Study files, configurations, rules, tables and other text of ours, changed: a value or an error of matscale's."""

from __future__ import annotations

import json
import warnings

import pytest

from fuzzing import attack, n_inputs
from matscale.core.config import override, read_toml
from matscale.core.data.references import References
from matscale.core.data.sources.filters import parse as parse_filters
from matscale.core.data.synthetic.recipe import Recipe
from matscale.core.errors import ConfigError, DataError
from matscale.core.parsing import read_json
from matscale.core.runs.config import TrainConfig
from matscale.core.scaling.tables.baselines import read_baselines
from matscale.core.scaling.tables.from_table import read_table
from matscale.core.study import plan
from matscale.core.study.config import Study
from matscale.core.study.lr_law import read_lr_law

STUDY = b"""
name = "first"
output = "studies/first"
architectures = ["fcn", { name = "schnet", variant = "x", lr = [1e-3], set = { optimizer.ema = 0.9 } }]
params = { from = "3k", to = "100k", rungs = 5 }
data = { path = "emt", fractions = [0.1, 0.3, 1.0] }
seeds = [0, 1]
lr = [1e-3, 2e-3]
budget = { epochs = 10, max_time = "2h" }
retries = 1
[grid]
"optimizer.eps" = [1e-8, 1e-6]
[set]
batch.atoms = 200
[local]
workers = 2
"""
CONFIG = b"""
seed = 1
log_every = 5
[architecture]
name = "fcn"
config = { width = 32 }
[data]
path = "emt"
fraction = 0.5
[batch]
atoms = 300
[optimizer]
lr = 1e-3
betas = [0.9, 0.99]
[budget]
epochs = 3
max_flops = "1e15"
[checkpoint]
at = [10, 20]
"""


def file_of(path, read):
    def use(content):
        path.write_bytes(content)
        return read(path)

    return use


def test_study_files(tmp_path):
    def read(path):
        study = Study.read(path)
        plan._refuse_own(study)
        plan._refuse_too_many(study)
        assert not set(study.name) & set("/\\\0")

    attack([STUDY], file_of(tmp_path / "study.toml", read), n_inputs(60, 0.005))


def test_configurations(tmp_path):
    attack([CONFIG], file_of(tmp_path / "c.toml", lambda p: TrainConfig.parse(read_toml(p))), n_inputs(100, 0.01))


def test_settings_on_the_command_line():
    def use(content):
        values = {"architecture": {"name": "fcn"}}
        TrainConfig.parse(override(values, [content.decode("utf-8", errors="surrogateescape")]))

    attack([b"optimizer.lr=1e-3", b"budget.epochs=10", b"checkpoint.at=[1, 2]"], use, n_inputs(100, 0.01))


def test_recipes(tmp_path):
    recipe = b'n = 40\nelements = ["Cu", "Ni"]\nprototypes = ["fcc"]\nrattle_temperatures = [300, 500]\nseed = 1\n'
    attack([recipe], file_of(tmp_path / "r.toml", lambda p: Recipe.parse(read_toml(p))), n_inputs(50, 0.005))


def test_rules(tmp_path):
    rule = b'[fcn]\na = 0.31\nb = -0.33\nparameters = "total"\ninterval = [-0.4, -0.2]\nbatch = 16\n'
    attack([rule], file_of(tmp_path / "r.toml", lambda p: read_lr_law(p, "fcn").lr(1000)), n_inputs(50, 0.005))


def test_filters():
    attack([b"forces_max<50", b"elements in Al,O", b"n_atoms >= 3"],
           lambda content: list(parse_filters([content.decode(errors="replace")])), n_inputs(50, 0.005))  # fmt: skip


def test_references():
    sound = json.dumps(
        {"unit": "eV/atom", "references": {"H": -1.5, "O": 2}, "rank": 2, "residual_rms": 0.1, "n_structures": 9}
    )
    attack([sound.encode()], lambda content: References.from_json(content.decode(errors="surrogateescape")),
           n_inputs(100, 0.06))  # fmt: skip


def test_baselines(tmp_path):
    sound = b'{"mean": {"loss": 3.5, "energy_mae": 0.1}, "zero": 4}'
    attack([sound], file_of(tmp_path / "b.json", read_baselines), n_inputs(50, 0.01))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl"])
def test_tables(tmp_path, suffix):
    rows = [
        {"params": 1000 * k, "data": 5000, "flops": 1e12 * k, "loss": 3 / k, "arch": "a", "seed": 0} for k in (1, 2)
    ]
    separator = "\t" if suffix == ".tsv" else ","
    lines = [separator.join(rows[0]), *(separator.join(map(str, row.values())) for row in rows)]
    lines = [json.dumps(row) for row in rows] if suffix == ".jsonl" else lines

    def read(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read_table(path, {})

    attack(["\n".join(lines).encode()], file_of(tmp_path / f"t{suffix}", read), n_inputs(50, 0.01))


@pytest.mark.parametrize(
    "text",
    ["[" * 10**6, "[" * 200 + "]" * 200, "9" * 5000, "1" + "0" * 400, '"\\ud800"', "", "nul", '{"a": "\x00"}', "[1,]"],
    ids=lambda text: text[:12],
)
def test_hostile_json_is_an_error_with_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a\.json: is not valid JSON \(.+\)\. Do this\."):
        read_json(tmp_path / "a.json", hint="Do this.")


def test_a_json_file_of_any_size_is_refused_unread(tmp_path):
    with open(tmp_path / "a.json", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"a\.json: is larger than"):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_an_error_of_the_wanted_kind(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_json(tmp_path / "none.json", ConfigError)
