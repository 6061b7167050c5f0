"""Attention of runs: maps, statistics, the page, JSON and errors of `matscale attention`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import write
from click.testing import CliRunner, Result

from matscale.cli import main
from matscale.core.attention.gather import Attention, attended, chosen, draw, gather
from matscale.core.attention.page import page, scripts
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.store.writer import ShardWriter
from matscale.core.errors import DataError
from matscale.core.inference.load import load
from matscale.core.runs.record import Run

MakeRun = Callable[..., Run]
ENCODER = {"width": 16, "n_heads": 2, "n_layers": 2, "feedforward": 16}
SIZES = {
    "transformer": {**ENCODER, "inputs": "concatenated"},
    "transformer-periodic": {**ENCODER, "cutoff": 4.0},
    "escaip": {"hidden": 16, "n_heads": 2, "n_layers": 2, "n_radial": 8, "cutoff": 4.0},
}


def command(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["attention", *(str(a) for a in arguments)])


@pytest.fixture
def mixed(structures: Callable[..., list], alloys: PackedDataset, tmp_path: Path) -> PackedDataset:
    """Structures with 1 to 12 atoms of the elements of `alloys`."""
    writer, rng = ShardWriter(tmp_path / "mixed", labels_by="surrogate: random"), np.random.default_rng(0)
    for one in structures(12):
        one.atomic_numbers = rng.choice([13, 28, 29], len(one))
        writer.append(one)
    writer.finish()
    return PackedDataset.open(tmp_path / "mixed")


def measured(run: Run, dataset: PackedDataset, **options: object) -> Attention:
    return gather(run, load(run, dtype="float64"), dataset, np.arange(len(dataset)), **options)


@pytest.mark.parametrize("name", SIZES)
def test_every_atom_gives_its_whole_attention_to_its_structure(
    make_run: MakeRun, mixed: PackedDataset, name: str
) -> None:
    run = make_run(name, **SIZES[name])
    found = measured(run, mixed)
    assert [(head.layer, head.head) for head in found.heads] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    n = len(found.drawn.structure)
    assert n == mixed.n_atoms.max()
    for layer in found.drawn.maps:
        assert layer.shape == (2, n, n)
        np.testing.assert_allclose(layer.sum(2), 1, atol=1e-9)
    assert all(0 < head.own.value < 1 for head in found.heads)
    assert all(head.own.low < head.own.value < head.own.high for head in found.heads)


@pytest.mark.parametrize("name", SIZES)
def test_padding_never_counts(make_run: MakeRun, mixed: PackedDataset, name: str) -> None:
    run = make_run(name, **SIZES[name])
    together, alone = (measured(run, mixed, batch=batch) for batch in (12, 1))
    for a, b in zip(together.heads, alone.heads):
        assert a.rank == pytest.approx(b.rank, abs=1e-6, nan_ok=True)
        assert a.rate == pytest.approx(b.rate, rel=1e-6, nan_ok=True)
        assert a.own == pytest.approx(b.own, rel=1e-6)


@pytest.mark.parametrize("name", SIZES)
def test_renumbering_the_atoms_renumbers_the_maps(
    make_run: MakeRun, mixed: PackedDataset, tmp_path: Path, name: str
) -> None:
    run = make_run(name, **SIZES[name])
    row = int(mixed.n_atoms.argmax())
    one = mixed.structure(row)
    order = np.random.default_rng(1).permutation(len(one))
    writer = ShardWriter(tmp_path / "other", labels_by="surrogate: random")
    one.atomic_numbers, one.positions, one.forces = (x[order] for x in (one.atomic_numbers, one.positions, one.forces))
    writer.append(one)
    writer.finish()
    potential = load(run, dtype="float64")
    plain = draw(name, potential, mixed, row)
    other = draw(name, potential, PackedDataset.open(tmp_path / "other"), 0)
    for a, b in zip(plain.maps, other.maps):
        np.testing.assert_allclose(a[:, order][:, :, order], b, atol=1e-6)
    assert np.ptp(plain.maps[0]) > 1e-3


def test_distances_are_those_of_the_nearest_image_or_of_the_neighbour_itself(
    make_run: MakeRun, alloys: PackedDataset
) -> None:
    atoms = alloys.structure(0).to_ase()
    nearest = atoms.get_all_distances(mic=True)
    for name in ("transformer", "transformer-periodic"):
        [layers] = attended(name, load(make_run(name, name=name, **SIZES[name])), alloys, [0])
        np.testing.assert_allclose(layers[0].distance, nearest.reshape(-1), atol=1e-5)
    [layers] = attended("escaip", load(make_run("escaip", name="e", **SIZES["escaip"])), alloys, [0])
    pairs = layers[0]
    own_images = pairs.distance[(pairs.query == pairs.key) & ~pairs.is_self]
    assert pairs.is_self.sum() == 2
    assert own_images.min() == pytest.approx(min(atoms.cell.lengths()), rel=1e-4)


def test_only_some_structures_are_drawn_at_random(alloys: PackedDataset) -> None:
    rows = np.arange(24)
    assert chosen(rows, 30).tolist() == rows.tolist()
    assert len(set(chosen(rows, 5).tolist())) == 5
    assert chosen(rows, 5, 0).tolist() == chosen(rows, 5, 0).tolist() != chosen(rows, 5, 1).tolist()


def test_a_row_that_there_is_not_is_refused(make_run: MakeRun, alloys: PackedDataset) -> None:
    with pytest.raises(DataError, match="has no row 99: its 24 rows"):
        draw("transformer", load(make_run("transformer", **SIZES["transformer"])), alloys, 99)


def test_the_command_prints_a_table_and_writes_a_page(make_run: MakeRun, mixed: PackedDataset, tmp_path: Path) -> None:
    run = make_run("transformer-periodic", **SIZES["transformer-periodic"])
    result = command(run.path, "--data", mixed.path, "-o", tmp_path / "a.html")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert "decay length [Å]" in lines[0]
    assert len(lines) == 1 + 4 + 1
    assert re.search(r"-?\d\.\d\d \[-?\d\.\d\d, -?\d\.\d\d\]", lines[1])
    text = (tmp_path / "a.html").read_text(encoding="utf-8")
    for script in scripts():
        assert text.count(script) == 1
        text = text.replace(script, "")
    assert text.count("data-show=") == 4
    assert f"{mixed.n_atoms.max()}" in text
    assert not re.findall(r"https?://", text)
    assert not re.findall(r"<(?:script|img|iframe|link)[^>]*\s(?:src|href)=\"(?!data:)", text)


def test_names_are_text_and_never_markup(make_run: MakeRun, mixed: PackedDataset) -> None:
    found = measured(make_run("transformer", **SIZES["transformer"]), mixed)
    text = page(found, {"command": "</script><img src=x>"}, "<script>alert(1)</script>")
    for script in scripts():
        text = text.replace(script, "")
    assert "<img" not in text
    assert "<script>alert" not in text


def test_json_has_the_statistics_the_curves_and_the_maps(
    make_run: MakeRun, mixed: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("escaip", **SIZES["escaip"])
    monkeypatch.chdir(tmp_path)
    result = command(run.path, "--data", mixed.path, "--json", "--row", 3)
    assert not Path("attention.html").exists()
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["architecture"] == "escaip"
    assert told["n_structures"] == 12
    assert [(one["layer"], one["head"]) for one in told["heads"]] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    for one in told["heads"]:
        assert all(len(one[key]) == 3 for key in ("rank_correlation", "decay_rate", "decay_length", "weight_on_itself"))
        assert len(one["curve"]["distance"]) == len(one["curve"]["relative_weight"]) > 3
    n = len(mixed.structure(3))
    assert told["structure"]["row"] == 3
    assert np.shape(told["structure"]["weights"]) == (2, 2, n, n)


def test_an_architecture_without_attention_is_refused_with_those_that_have_it(make_run: MakeRun) -> None:
    result = command(make_run("schnet", hidden=8, filters=8, n_radial=8, n_layers=1, cutoff=4.0).path)
    assert result.exit_code == 2
    assert "schnet hands out no attention weights. Architectures that do: escaip, transformer, " in result.output


def test_bad_input_is_refused_with_what_to_do(make_run: MakeRun, alloys: PackedDataset, tmp_path: Path) -> None:
    run = make_run("transformer", **SIZES["transformer"])
    gold = tmp_path / "gold.extxyz"
    write(gold, bulk("Au", cubic=True))
    empty = make_run("transformer", name="empty", steps=(), **SIZES["transformer"])
    for arguments, told in (
        ((run.path, "--data", gold), "--skip-invalid"),
        ((run.path, "--data", tmp_path / "none"), "none"),
        ((tmp_path / "nowhere",), "nowhere"),
        ((empty.path,), "checkpoint"),
        ((run.path, "--row", 99, "-o", tmp_path / "a.html"), "has no row 99"),
        ((run.path, "-o", tmp_path / "no/a.html"), "there is no folder"),
    ):
        result = command(*arguments)
        assert result.exit_code in (2, 3), result.output
        assert told in result.output
        assert "Traceback" not in result.output
