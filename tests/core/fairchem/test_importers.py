"""An outside package brings an importer for its own architecture."""

from __future__ import annotations

import json
import subprocess
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from little import Site
from matscale.core.fairchem import run
from matscale.core.fairchem.checkpoint import FairchemCheckpoint

PLUGIN = """
import torch
from matscale import hookimpl
from matscale.core.model.architecture import Architecture, ArchitectureConfig
from matscale.core.fairchem import Importer, copy_named
from matscale.core.fairchem.importer import renamed
from matscale.core.model.outputs import Outputs

class LoneConfig(ArchitectureConfig):
    width: int = 1
    max_atomic_number: int = 30

class Lone(torch.nn.Module):
    def __init__(self, config):
        super().__init__()
        self.energy = torch.nn.Parameter(torch.zeros(config.width))

    def forward(self, batch):
        per_atom = self.energy.sum().expand(batch.n_atoms)
        return Outputs(energy=per_atom.new_zeros(batch.n_structures).index_add(0, batch.batch, per_atom))

def config(checkpoint):
    given, names = checkpoint.model.options, {"channels": "width"}
    return LoneConfig(**renamed("lone", given, names, only={"odd": (True,)}, without_effect={"otf_graph"}))

def name(ours):
    return f"lone_{ours}"

@hookimpl
def register_architectures():
    return [Architecture(name="lone", summary="Atoms by themselves.", reference="none", config=LoneConfig,
                         build=lambda config, info: Lone(config), ladder=lambda n: LoneConfig(width=n), dial="width",
                         forces="gradient")]

@hookimpl
def register_importers():
    def roles(model, names):
        return {n: "trained" for n in names if n == "lone_energy"}
    return [Importer(name="lone", models=("lonenet",), config=config, roles=roles,
                     load=lambda model, weights: copy_named(model, weights, name))]
"""


def content(weights: dict[str, Any], **options: Any) -> dict[str, Any]:
    model = {"name": "lonenet", "channels": 3, "otf_graph": True, **options}
    return {"state_dict": OrderedDict(weights), "config": {"model": model}}


def test_an_outside_importer_is_found_by_the_model_in_the_file(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matscale.core.fairchem.checkpoint.subprocess", subprocess)  # a process of its own, for once
    site.install("lab-lone", PLUGIN)
    torch.save(content({"module.lone_energy": torch.tensor([1.0, 2.0, 4.0])}), tmp_path / "lone.pt")
    result = site.run("import", "fairchem", str(tmp_path / "lone.pt"), "-o", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("lone, 3 parameters, raw weights. Elements: H He")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["architecture"]["distribution"] == "lab-lone"
    [weights] = (tmp_path / "run" / "checkpoints").glob("*/model.safetensors")
    assert load_file(weights)["model.energy"].tolist() == [1, 2, 4]


@pytest.mark.parametrize(
    ("weights", "options", "message"),
    [
        ({"lone_energy": torch.ones(3)}, {"spin": 2}, "unknown option spin = 2 of lone"),
        ({"lone_energy": torch.ones(3)}, {"odd": 1}, "odd = 1: lone supports only True"),
        ({"lone_energy": torch.ones(2)}, {}, "lone_energy has shape (2,), energy needs (3,)"),
        ({"lone_energy": torch.ones(3), "more": torch.ones(1)}, {}, "more (1 such) is not a weight of this model"),
        ({"lone_energy": torch.ones(3)}, {"name": "warpnet"}, "its model is 'warpnet', and only these are imported: "),
    ],
)
def test_the_common_part_refuses_what_an_importer_does_not_name(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: dict, options: dict, message: str
) -> None:
    site.install("lab-lone", PLUGIN)
    monkeypatch.setattr(run, "read", lambda path: FairchemCheckpoint(path, content(weights, **options)))
    result = site.run("import", "fairchem", "lone.pt", "-o", str(tmp_path / "run"))
    assert result.exit_code in (2, 3)
    assert message in " ".join(result.stderr.split())
    assert not (tmp_path / "run").exists()


def test_two_importers_of_one_model_are_an_error_that_names_both(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("lab-lone", PLUGIN)
    site.install("lab-other", PLUGIN.replace('name="lone"', 'name="other"'))
    monkeypatch.setattr(run, "read", lambda path: FairchemCheckpoint(path, content({"lone_energy": torch.ones(3)})))
    result = site.run("import", "fairchem", "lone.pt", "-o", str(tmp_path / "run"))
    assert result.exit_code == 2
    assert "lone and other both import 'lonenet'" in " ".join(result.stderr.split())


EXPORT = """
from matscale.plugin import ConfigError

def export(potential):
    if len(potential.model.energy) == 2:
        raise ConfigError("width = 2: fairchem's is always odd.")
    return {"state_dict": {"lone_energy": potential.model.energy.detach()}, "config": {"model": {"name": "lonenet"}}}
"""


def exported(site: Site, folder: Path, monkeypatch: pytest.MonkeyPatch, weights: list[float]) -> tuple[Any, Path]:
    """What `matscale export` said of a model with these weights, and the file."""
    theirs = content({"lone_energy": torch.tensor(weights)}, channels=len(weights))
    torch.save(theirs, folder / "lone.pt")
    monkeypatch.setattr(run, "read", lambda path: FairchemCheckpoint(path, theirs))
    result = site.run("import", "fairchem", str(folder / "lone.pt"), "-o", str(folder / "run"))
    assert result.exit_code == 0, result.output
    return site.run("export", "fairchem", str(folder / "run"), "-o", str(folder / "back.pt")), folder / "back.pt"


def test_an_outside_package_exports_its_own_architecture(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("lab-lone", PLUGIN.replace("load=lambda", "export=export, load=lambda") + EXPORT)
    result, file = exported(site, tmp_path, monkeypatch, [1.0, 2.0, 4.0])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("lone, 3 parameters, for fairchem v1")
    found = torch.load(file, weights_only=True)
    assert found["state_dict"]["lone_energy"].tolist() == [1, 2, 4]
    assert found["config"] == {"model": {"name": "lonenet"}, "cmd": {"identifier": "run"}}


def test_what_an_exporter_refuses_ends_with_the_run_and_its_reason(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install("lab-lone", PLUGIN.replace("load=lambda", "export=export, load=lambda") + EXPORT)
    result, file = exported(site, tmp_path, monkeypatch, [1.0, 2.0])
    assert result.exit_code == 2
    assert "run: cannot be exported: width = 2" in " ".join(result.stderr.split())
    assert not file.exists()


def test_an_architecture_without_a_way_back_is_refused_with_those_that_have_one(site: Site, tmp_path: Path) -> None:
    from matscale.core.errors import ConfigError
    from matscale.core.fairchem.export import exporter_of
    from matscale.core.runs.config import TrainConfig
    from matscale.core.runs.record import Run

    lone = Run(tmp_path, TrainConfig.parse({"architecture": {"name": "lone"}}), {})
    with pytest.raises(ConfigError, match="is 'lone', and only these are exported to fairchem v1: eqv2"):
        exporter_of(lone)
