"""Importing checkpoints of fairchem v1, made here with the keys of genuine ones (docs/eqv2.md: how those compare)."""

from __future__ import annotations

import json
import os
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

import matscale
from matscale.cli import main
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError
from matscale.core.fairchem.checkpoint import FairchemCheckpoint, read
from matscale.core.fairchem.run import import_run, translate
from matscale.core.model.sphere.tensor import parts_from_tensor, tensor_from_parts
from matscale.core.runs.record import Run
from matscale.plugins.eqv2 import EqV2, graph
from matscale.plugins.eqv2.fairchem.importer import configuration
from matscale.plugins.eqv2.fairchem.names import config_from_fairchem, fairchem_name

BACKBONE = {
    "model": "equiformer_v2_backbone",
    "use_pbc": True,
    "otf_graph": True,
    "norm_type": "layer_norm_sh",
    "sphere_channels": 4,
    "num_layers": 1,
    "edge_channels": 4,
    "attn_hidden_channels": 4,
    "num_heads": 1,
    "attn_alpha_channels": 4,
    "attn_value_channels": 4,
    "ffn_hidden_channels": 4,
    "lmax_list": [2],
    "mmax_list": [2],
    "grid_resolution": 8,
    "max_radius": 4.0,
    "max_neighbors": 12,
    "max_num_elements": 96,
    "enforce_max_neighbors_strictly": False,
    "avg_num_nodes": 31.17,
    "avg_degree": 61.95,
    "use_grid_mlp": True,
}
HEADS = {
    "energy": {"module": "equiformer_v2_energy_head"},
    "forces": {"module": "equiformer_v2_force_head"},
    "stress": {"module": "rank2_symmetric_head", "use_source_target_embedding": True, "decompose": True},
}
NORMALIZERS = {
    "forces": {"mean": torch.tensor(0.0), "rmsd": torch.tensor(2.5)},
    "stress_isotropic": {"mean": torch.tensor(0.25), "rmsd": torch.tensor(0.5)},
    "stress_anisotropic": {"mean": torch.tensor(0.125), "rmsd": torch.tensor(0.75)},
}
REFERENCES = torch.zeros(119)
REFERENCES[[8, 22, 38]] = torch.tensor([-4.0, -7.0, -1.5])


def matscale_import(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import", "fairchem", *map(str, arguments)])


def weights(seed: int) -> OrderedDict[str, Tensor]:
    """Random weights under their published names, with one of the tables that fairchem stores among them."""
    torch.manual_seed(seed)
    named = {
        fairchem_name(n): p.data + 0.1 * torch.randn_like(p)
        for n, p in EqV2(config_from_fairchem(BACKBONE)).named_parameters()
    }
    return OrderedDict({**named, "backbone.mappingReduced.to_m": torch.eye(9)})


RAW, AVERAGED = weights(0), weights(1)


def content(**changes: Any) -> dict[str, Any]:
    """What `checkpoint.pt` holds: raw weights, and averaged ones in a list."""
    model = {"name": "hydra", "pass_through_head_outputs": True, "backbone": BACKBONE, "heads": HEADS}
    average = [w for name, w in AVERAGED.items() if not name.endswith("to_m")]
    return {
        "epoch": 1.5,
        "step": 12,
        "state_dict": RAW,
        "normalizers": NORMALIZERS,
        "elementrefs": {"energy": {"element_references": REFERENCES}},
        "config": {"model": model, "optim": {"ema_decay": 0.999}, "cmd": {"version": "1.10.0", "seed": 0}},
        "val_metrics": None,
        "amp": None,
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
        "ema": {"decay": 0.999, "num_updates": None, "shadow_params": average, "collected_params": average},
        **changes,
    }


def best(**changes: Any) -> dict[str, Any]:
    """What `best_checkpoint.pt` holds: averaged weights under the names of the raw ones."""
    held = content(state_dict=AVERAGED, val_metrics={"energy_mae": {"total": 1.0, "numel": 2, "metric": 0.5}})
    left = {key: held[key] for key in ("state_dict", "normalizers", "elementrefs", "config", "val_metrics", "amp")}
    return {**left, **changes}


@dataclass
class Files:
    folder: Path

    def write(self, content: Any, name: str = "checkpoint.pt") -> Path:
        torch.save(content, self.folder / name)
        return self.folder / name

    def read(self, content: Any) -> FairchemCheckpoint:
        """Without the process that unpickles: what it hands on."""
        return FairchemCheckpoint(self.folder / "checkpoint.pt", content)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def expected(named: dict[str, Tensor], structure: Structure) -> tuple[Tensor, Tensor, Tensor]:
    """Energy, forces and stress by fairchem's formulas from a bare model with these weights."""
    config = config_from_fairchem(BACKBONE)
    model = EqV2(config).eval()
    for name, parameter in model.named_parameters():
        parameter.data.copy_(named[fairchem_name(name)])
    with torch.no_grad():
        raw = model(collate([structure], graph(config)))
    isotropic, anisotropic = parts_from_tensor(raw.stress)
    energy = raw.energy + REFERENCES.double()[torch.as_tensor(structure.atomic_numbers).long()].sum()
    return energy, 2.5 * raw.forces, tensor_from_parts(0.5 * isotropic + 0.25, 0.75 * anisotropic + 0.125)


def check_predictions(run: Path, named: dict[str, Tensor], structure: Structure) -> None:
    potential = matscale.load(run)
    found = potential(collate([structure], potential.graph))
    energy, forces, stress = expected(named, structure)
    assert forces.abs().max() > 1e-3
    torch.testing.assert_close(found.energy, energy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.forces, forces, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.stress, stress, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("held", "options", "named", "says"),
    [
        (content, (), AVERAGED, "averaged"),
        (content, ("--weights", "raw"), RAW, "raw"),
        (best, (), AVERAGED, "averaged"),
    ],
    ids=["checkpoint.pt", "checkpoint.pt raw", "best_checkpoint.pt"],
)
def test_a_checkpoint_becomes_a_run_that_predicts_what_fairchem_does(
    files: Files, oxide: Structure, held: Callable[[], dict], options: tuple, named: dict, says: str
) -> None:
    result = matscale_import(files.write(held()), "-o", files.folder / "run", *options)
    assert result.exit_code == 0, result.output
    assert f"{says}" in result.stdout
    assert "Elements: O Ti Sr" in result.stdout
    check_predictions(files.folder / "run", named, oxide)
    run = Run.open(files.folder / "run")
    assert run.info["status"] == "completed"
    assert run.info["imported"]["weights"] == ("raw" if says == "raw" else "ema")


def test_an_imported_run_predicts_from_the_command_line(files: Files, oxide: Structure) -> None:
    from ase.io import read, write

    run = files.folder / "run"
    import_run(files.write(content()), run)
    write(files.folder / "in.extxyz", oxide.to_ase())
    arguments = ["predict", run, files.folder / "in.extxyz", "-o", files.folder / "out.extxyz"]
    result = CliRunner().invoke(main, [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    energy, forces, _ = expected(AVERAGED, oxide)
    found = read(files.folder / "out.extxyz")
    assert found.get_potential_energy() == pytest.approx(float(energy), abs=1e-4)
    torch.testing.assert_close(torch.from_numpy(found.get_forces()).float(), forces, rtol=1e-4, atol=1e-5)


def test_an_imported_run_is_evaluated_on_data_that_are_named(files: Files, alloys: Any) -> None:
    held = content(elementrefs={"energy": {"element_references": torch.ones(119)}})
    import_run(files.write(held), files.folder / "run")
    without = CliRunner().invoke(main, ["evaluate", str(files.folder / "run")])
    assert without.exit_code == 2
    assert "Name one with --data" in without.stderr
    result = CliRunner().invoke(main, ["evaluate", str(files.folder / "run"), "--data", str(alloys.path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["eqv2"]["forces_mae"] > 0
    assert "was not trained here" in result.stderr  # why there are no baselines beside it


def test_an_imported_model_is_fine_tuned(files: Files, alloys: Any) -> None:
    held = content(elementrefs={"energy": {"element_references": torch.ones(119)}})
    import_run(files.write(held), files.folder / "run")
    arguments = ["train", "--from", files.folder / "run", "--data", alloys.path, "-o", files.folder / "tuned"]
    limits = ["--steps", 1, "--lr", 1e-12, "--device", "cpu", "-q", "--references", "keep"]
    result = CliRunner().invoke(main, [str(a) for a in (*arguments, *limits)])
    assert result.exit_code == 0, result.output
    structure, outputs = alloys.structure(0), []
    for name in ("run", "tuned"):
        potential = matscale.load(files.folder / name)
        outputs.append(potential(collate([structure], potential.graph)))
    torch.testing.assert_close(outputs[1].energy, outputs[0].energy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs[1].stress, outputs[0].stress, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_prefixes_of_parallel_training_are_taken_off(files: Files, prefix: str) -> None:
    named = OrderedDict((prefix + name, w) for name, w in RAW.items())
    imported = translate(files.read(content(state_dict=named)), "raw")
    model = imported.potential.model
    assert all(torch.equal(p, RAW[fairchem_name(name)]) for name, p in model.named_parameters())


def test_old_names_of_normalizers_are_understood(files: Files) -> None:
    old = {
        "target": {"mean": torch.tensor(0.0), "std": torch.tensor(3.0)},
        "grad_target": {"mean": torch.tensor([0.0]), "std": torch.tensor([1.5])},
    }
    imported = translate(files.read(content(normalizers=old)))
    assert imported.potential.scales.tolist() == [3.0, 1.5, 1.0]


def old(named: dict[str, Tensor] = RAW, **options: Any) -> dict[str, Any]:
    """The content of a file from before hydra: one model without a stress, its parts under shorter names."""
    weights = OrderedDict(
        ("module.module." + name.removeprefix("backbone.").removeprefix("output_heads.energy.").removeprefix(
            "output_heads.forces."), w) for name, w in named.items() if ".stress." not in name
    )  # fmt: skip
    held = content(state_dict=weights, ema=None)
    del held["elementrefs"]
    held["normalizers"] = {
        "target": {"mean": torch.tensor(0.0), "std": torch.tensor(3.0)},
        "grad_target": {"mean": torch.tensor(0.0), "std": torch.tensor(2.5)},
    }
    backbone = {key: value for key, value in BACKBONE.items() if key != "model"}
    held["config"] = {"model": {"name": "equiformer_v2", "regress_forces": True, **backbone, **options}}
    return held


def test_a_model_from_before_hydra_is_imported_without_stress(files: Files, oxide: Structure) -> None:
    result = matscale_import(files.write(old()), "-o", files.folder / "run")
    assert result.exit_code == 0, result.output
    potential = matscale.load(files.folder / "run")
    found = potential(collate([oxide], potential.graph))
    assert found.stress is None
    assert "stress" not in matscale.calculator(files.folder / "run").implemented_properties
    newer = translate(files.read(content(normalizers=old()["normalizers"])), "raw").potential.eval()
    whole = newer(collate([oxide], newer.graph)).detach()
    references = REFERENCES.double()[torch.as_tensor(oxide.atomic_numbers).long()].sum()
    torch.testing.assert_close(found.energy, whole.energy - references, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.forces, whole.forces, rtol=1e-6, atol=1e-6)


def test_options_beside_the_name_of_an_old_model_are_understood(files: Files) -> None:
    held = old()
    attributes = {key: value for key, value in held["config"]["model"].items() if key != "name"}
    apart = {**held, "config": {"model": "equiformer_v2", "model_attributes": attributes}}
    both = [translate(files.read(one)).config for one in (held, apart)]
    assert both[0] == both[1]
    assert both[0].stress_head == "none"


@pytest.mark.parametrize("used", [True, False])
def test_references_inside_an_old_model_count_where_it_says_so(files: Files, used: bool) -> None:
    held = old(use_energy_lin_ref=used, load_energy_lin_ref=True)
    held["state_dict"]["module.module.energy_lin_ref"] = REFERENCES[:96]
    imported = translate(files.read(held))
    expected = 3.0 * REFERENCES.double() if used else torch.zeros(119, dtype=torch.float64)
    assert torch.equal(imported.potential.references, expected)  # they are stored in units of the energy's scale
    assert imported.info.elements == ((8, 22, 38) if used else tuple(range(1, 96)))


def test_an_old_model_that_shifts_the_energy_of_every_structure_is_refused(files: Files) -> None:
    held = old()
    held["normalizers"]["target"]["mean"] = torch.tensor(-0.75)
    with pytest.raises(DataError, match=r"energy adds -0\.75, once for each structure"):
        translate(files.read(held))


def test_without_references_all_elements_of_the_table_are_known(files: Files) -> None:
    held = content()
    del held["elementrefs"]
    imported = translate(files.read(held))
    assert imported.info.elements == tuple(range(1, 96))
    assert not imported.potential.references.any()


# What is refused ------------------------------------------------------------------------------------------------------


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> tuple:
        return os.mkdir, (self.mark,)


def test_code_in_a_checkpoint_is_refused_by_name_and_not_run(files: Files) -> None:
    mark = files.folder / "was-run"
    path = files.write(content(amp=Code(mark)))
    result = matscale_import(path, "-o", files.folder / "run")
    assert result.exit_code == 3
    assert "posix.mkdir" in result.stderr or "nt.mkdir" in result.stderr
    assert not mark.exists()
    assert not (files.folder / "run").exists()
    torch.load(path, weights_only=False)  # the file does what it is feared for
    assert mark.is_dir()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"flux": 1}, "unknown key flux"),
        ({"amp": {1, 2}}, "refers to __builtin__.set"),
        ({"val_metrics": {"a": torch.zeros(1).expand(10**9)}}, "more than the .* bytes of the file"),
    ],
    ids=["key", "type", "size"],
)
def test_unknown_content_is_refused_by_name(files: Files, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(files.write(content(**changes)))


def test_a_value_nested_into_itself_is_refused(files: Files) -> None:
    bomb: list[Any] = ["boom"]
    for _ in range(31):
        bomb = [bomb] * 10
    with pytest.raises(DataError, match="more than 1000000 values"):
        read(files.write(content(epoch=bomb)))


@pytest.mark.parametrize("kind", ["text", "zip", "compressed", "list"])
def test_other_files_are_refused(files: Files, kind: str) -> None:
    path = files.folder / "file.pt"
    if kind == "text":
        path.write_text("not a checkpoint")
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        deflated = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
        with zipfile.ZipFile(path, "w", deflated) as archive:
            archive.writestr("a/data.txt", "0" * 1000)
    with pytest.raises(DataError, match=r"file\.pt: is refused: it"):
        read(path)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The content with one entry changed, by its dotted path; None takes it out."""
    plain = content()
    section = plain
    *parents, last = path.split("/")
    for parent in parents:
        section[parent] = section = dict(section[parent])
    if value is None:
        del section[last]
    else:
        section[last] = value
    return plain


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("config/model/name", "painn", "its model is 'painn'"),
        ("config/model", "escn", "its model is 'escn'"),
        ("config/model/turbo", True, "unknown option 'turbo' of a hydra"),
        ("config/model/backbone/model", "escn_backbone", "its backbone is 'escn_backbone'"),
        ("config/model/backbone/use_grid_mlp", None, "use_grid_mlp = False: only True"),
        ("config/model/backbone/warp", 9, "unknown option warp = 9"),
        ("config/model/backbone/grid_resolution", 100_000, "grid_resolution"),
        ("config/model/backbone/sphere_channels", 10**12, "channels = 1000000000000, more than"),
        ("config/model/backbone/lmax_list", 4, "lmax_list = 4: only models of one resolution are supported, as "),
        ("config/model/backbone/max_num_elements", "96", "max_num_elements = '96': a whole number"),
        ("config/model/backbone/use_grid_mlp", torch.ones(2), "use_grid_mlp is a tensor"),
        ("config/model/heads/forces", None, "its head for forces is None"),
        ("config/model/heads/forces/module", ["x"], r"its head for forces is \['x'\]"),
        ("config/model/heads/magmoms", {"module": "x"}, "head 'magmoms' has no counterpart"),
        ("config/model/heads/energy/reduce", "mean", "reduce = 'mean' of the head for energy: only 'sum'"),
        ("config/model/heads/stress/decompose", None, "decompose = False"),
        ("config/model/heads/forces/spin", 1, "unknown option spin = 1"),
    ],
)
def test_another_network_is_refused_by_name(files: Files, path: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        translate(files.read(changed(path, value)))


@pytest.mark.parametrize("named", [None, "layer_norm_sh", "rms_norm_sh"])
def test_the_stress_head_has_the_norm_of_the_backbone_whatever_it_names(files: Files, named: str | None) -> None:
    plain = changed("config/model/heads/stress", HEADS["stress"] | ({"default_norm_type": named} if named else {}))
    plain["config"]["model"]["backbone"] = BACKBONE | {"norm_type": "rms_norm_sh"}
    assert configuration(files.read(plain)).norm == "rms_norm_sh"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("state_dict/output_heads.magmoms.weight", torch.ones(1), r"output_heads\.magmoms\.weight .* is not a weight"),
        ("state_dict/backbone.norm.norm_l0.bias", None, r"no 'backbone\.norm\.norm_l0\.bias'"),
        ("state_dict/backbone.norm.norm_l0.bias", torch.full((4,), torch.nan), r"norm_l0\.bias has NaN"),
        ("state_dict/backbone.norm.norm_l0.bias", "text", r"norm_l0\.bias in state_dict is a str"),
        ("state_dict", None, "has no weights"),
        ("normalizers/energy", {"mean": torch.tensor(5.0), "rmsd": torch.tensor(1.0)}, "adds 5, once for each struct"),
        ("normalizers/charge", {}, "unknown normalizer 'charge'"),
        ("normalizers/forces", {"rmsd": torch.tensor(0.0)}, "a positive scale"),
        ("normalizers/forces", {"median": torch.tensor(0.0)}, "other entries"),
        ("elementrefs/energy", {"element_references": torch.ones(200)}, "at most 119"),
        ("elementrefs/charge", {}, "element references of 'charge'"),
        ("elementrefs", torch.ones(119), "'elementrefs' is a Tensor where a dict"),
        ("config/model/heads/forces", "equiformer_v2_force_head", "'forces' is a str where a dict"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(files: Files, path: str, value: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        translate(files.read(changed(path, value)), "raw")


def test_a_list_of_averaged_weights_in_another_order_is_refused(files: Files) -> None:
    average = content()["ema"]["shadow_params"]
    for other, message in ((average[::-1], "in another order"), (average[1:], r"has \d+ tensors for")):
        with pytest.raises(DataError, match=message):
            translate(files.read(content(ema={"shadow_params": other})))
        assert translate(files.read(content(ema={"shadow_params": other})), "raw").weights == "raw"


def test_weights_that_are_not_in_the_file_are_refused(files: Files) -> None:
    with pytest.raises(ConfigError, match="has no raw weights, only averaged ones"):
        translate(files.read(best()), "raw")
    with pytest.raises(ConfigError, match="has no averaged weights, only raw ones"):
        translate(files.read(content(ema=None)), "ema")


def test_nothing_is_written_over(files: Files) -> None:
    path = files.write(content())
    (files.folder / "run").mkdir()
    (files.folder / "run" / "mine.txt").write_text("keep")
    result = matscale_import(path, "-o", files.folder / "run")
    assert result.exit_code == 2
    assert "exists already" in result.stderr


def test_import_into_a_run_does_not_advise_an_option_that_it_has_not(files: Files) -> None:
    path = files.write(content())
    import_run(path, files.folder / "run", "raw")
    result = matscale_import(path, "-o", files.folder / "run")
    assert result.exit_code == 2
    assert "there is a run already. Choose another folder" in result.stderr
    assert "--resume" not in result.stderr


def test_a_missing_file_is_a_usage_error(files: Files) -> None:
    result = matscale_import(files.folder / "none.pt", "-o", files.folder / "run")
    assert result.exit_code == 2
    assert "there is no such file" in result.stderr


# fairchem's own numbers -----------------------------------------------------------------------------------------------


def test_the_golden_model_of_fairchem_is_imported_with_its_numbers(files: Files, golden: Any) -> None:
    model = {"name": "hydra", "backbone": golden.facts["backbone"], "heads": golden.facts["heads"]}
    path = files.write({"state_dict": OrderedDict(golden.weights), "config": {"model": model}})
    imported = translate(read(path))
    assert imported.weights == "raw"
    with torch.no_grad():
        found = imported.potential.eval()(collate(golden.structures, imported.potential.graph))
    for name, value in (("energy", found.energy), ("forces", found.forces), ("stress_full_no_denorm", found.stress)):
        expected = golden.tensors[f"out64.{name}"]
        assert (value.double() - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_the_plain_values_survive_the_process_that_reads_them(files: Files) -> None:
    found = read(files.write(content()))
    assert found.config == json.loads(json.dumps(content()["config"]))
    assert found.values["step"] == 12
    assert torch.equal(found.values["elementrefs"]["energy"]["element_references"], REFERENCES)
    assert "optimizer" not in found.values
