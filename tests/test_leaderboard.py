"""`benchmarks/leaderboard.py` reads both dialects of Matbench-Discovery's model files, and tables made of them."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import leaderboard


@pytest.mark.parametrize(
    ("cost", "hours"),
    [
        ({"entries": [{"hardware": "NVIDIA H100", "count": 32, "hours_per_device": 177.3125}]}, 5674.0),
        ({"Nvidia A100 GPUs": {"amount": 32, "hours": 170}}, 5440.0),
        ("missing", None),
        ({"entries": [{"hardware": "NVIDIA H100", "count": 32, "hours_per_device": "missing"}]}, None),
        (None, None),
    ],
)
def test_device_hours_are_read_in_both_dialects(cost: object, hours: float | None) -> None:
    assert leaderboard.hours_of({"training_cost": cost}) == hours


def test_rows_of_a_table_have_the_hours_of_all_their_devices() -> None:
    row = {"model": "a", "params": "9", "training_sets": "X", "hardware_count_hours": "", "mae_ev_per_atom": "0.02"}
    assert leaderboard.of_row(row)["device_hours"] is None
    both = {**row, "hardware_count_hours": "NVIDIA H100 80GBx16x124.0h; NVIDIA A100x2x3h"}
    assert leaderboard.of_row(both)["device_hours"] == 16 * 124 + 6


def test_the_public_table_has_the_models_that_the_page_tells_of(shared: Path) -> None:
    models = leaderboard.read(shared / "data" / "scaling" / "matbench" / "models.csv")
    assert (len(models), sum(row["device_hours"] is not None for row in models)) == (62, 26)


NEW = """\
model_name: {name}
model_key: {name}
lifecycle: active
license:
  code: MIT
openness: OSOD
architecture_types: [gnn]
targets: EFS_G
training_sets: [{sets}]
size: 45M
model_params: {params}
training_cost:
  entries:
  - hardware: NVIDIA H100
    count: 16
    hours_per_device: {hours}
  - hardware: NVIDIA A100
    count: 2
    hours_per_device: 1.5
notes: # notes can have any key
  description: uses Clebsch–Gordan products
metrics:
  discovery:
    pred_col: e_form_per_atom
    full_test_set:
      MAE: 9.9 # eV/atom
    unique_prototypes:
      F1: 0.9  # fraction
      MAE: {mae} # eV/atom
      missing_preds: 0 # count
  phonons:
    kappa_103:
      κ_SRME: 0.0941
"""
OLD = """\
model_name: {name}
model_version: v2024.12.25
date_added: "2024-12-25"
model_type: Transformer
model_params: {params:_}
n_estimators: 1
training_set: [{sets}]
training_cost: {hours}
hyperparams:
  max_neighbors: .inf # see sec. 5.3
metrics:
  phonons: not applicable
  discovery:
    pred_file: models/{name}/wbm-IS2RE.csv.gz
    unique_prototypes:
      MAE: {mae} # eV/atom
      missing_percent: 0.00% # fraction
"""
UNTESTED = "model_name: untested\nmodel_params: 7\ntraining_set: [MPtrj]\nmetrics:\n  discovery: not available\n"


def checkout(folder: Path) -> Path:
    """Model files as a checkout of Matbench-Discovery holds them, in both dialects, six of each."""
    files = {"untested/metadata_aborted.yml": UNTESTED}
    for k in range(6):
        params, mae = 10 ** (5 + k // 2) * (1 + 2 * (k % 2)), round(0.2 * 0.7**k * (1 + 0.02 * (-1) ** k), 4)
        new = {"name": f"new-{k}", "sets": "sAlex, MPtrj, OMat24" if k == 5 else "MPtrj", "params": params}
        old = {"name": f"old-{k}", "sets": "MP 2022", "params": params + 5, "mae": 2 * mae}
        cost = "\n  Nvidia A100 GPUs: { amount: 4, hours: 10 }" if k == 0 else "missing"
        files[f"new/new-{k}.yml"] = NEW.format(**new, hours=2.5 * 3**k, mae=mae)
        files[f"old/old-{k}.yml"] = OLD.format(**old, hours=cost)
    for name, text in files.items():
        path = folder / "models" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_model_files_become_a_table_and_its_laws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "leaderboard.csv"
    monkeypatch.setattr(sys, "argv", ["leaderboard.py", str(checkout(tmp_path / "checkout")), "-o", str(table)])
    leaderboard.main()
    with table.open(encoding="utf-8") as file:
        rows = {row["model"]: row for row in csv.DictReader(file)}
    assert len(rows) == 12
    assert [float(rows["new-0"][key]) for key in ("params", "device_hours", "mae")] == [1e5, 16 * 2.5 + 2 * 1.5, 0.204]
    assert rows["new-5"]["training_sets"] == "MPtrj+OMat24+sAlex"
    assert [rows["old-0"][key] for key in ("params", "training_sets", "device_hours")] == ["100005", "MP 2022", "40.0"]
    assert rows["old-1"]["device_hours"] == ""
    told = capsys.readouterr().out
    assert f"{table}: 12 models, 7 with a cost" in told
    assert told.count("$ matscale fit") == told.count("  A  ") == len(leaderboard.LAWS)


def test_a_folder_without_model_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(leaderboard.DataError, match="Give a checkout of matbench-discovery"):
        leaderboard.read(tmp_path)
