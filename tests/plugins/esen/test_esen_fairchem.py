"""Checkpoints of eSEN as fairchem v1 and v2 write them, made of the golden models, become the models that they hold."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairchem_files import BASE, REFERENCES, SCALE, task, write_inference
from matscale.core.data.neighbors import collate
from matscale.core.errors import ConfigError, DataError, MatscaleError
from matscale.core.fairchem.checkpoint import read
from matscale.core.fairchem.run import Imported, translate
from matscale.plugins.esen import ESEN
from matscale.plugins.esen.fairchem.names import fairchem_name, with_system

UMA = "fairchem.core.models.uma"


def content(golden: Any, **options: Any) -> dict[str, Any]:
    """What an inference checkpoint holds, with a backbone of other `options`."""
    modules = {"efs": "MLP_EFS_Head", "energy": "MLP_Energy_Head", "forces": "Linear_Force_Head"}
    names = ["energy", "forces"] if golden.is_direct else ["efs"]
    weights = {n: w for n, w in golden.weights.items() if not n.startswith("output_heads.stress.")}
    backbone = {"model": f"{UMA}.escn_moe.eSCNMDMoeBackbone", "num_experts": 0, **golden.facts["backbone"], **options}
    return {
        "model_config": {
            "_target_": f"{BASE}.HydraModel",
            "backbone": backbone,
            "heads": {name: {"module": f"{UMA}.escn_md.{modules[name]}"} for name in names},
        },
        "model_state_dict": OrderedDict(weights),
        "ema_state_dict": OrderedDict({f"module.{n}": w for n, w in weights.items()}, n_averaged=torch.tensor(3)),
        "tasks_config": [task(name, SCALE) for name in ("energy", "forces")],
    }


def wrapped(held: dict[str, Any]) -> dict[str, Any]:
    """The head inside a wrapper for one data set, under the name of a release."""
    held["model_config"]["heads"] = {
        "energyandforcehead": {
            "module": f"{UMA}.escn_moe.DatasetSpecificSingleHeadWrapper",
            "head_cls": f"{UMA}.escn_md.MLP_EFS_Head",
            "dataset_names": ["omat"],
        }
    }
    for key in ("model_state_dict", "ema_state_dict"):
        theirs = "output_heads.energyandforcehead.head."
        held[key] = OrderedDict((n.replace("output_heads.efs.", theirs), w) for n, w in held[key].items())
    return held


def old(golden: Any) -> dict[str, Any]:
    """What `best_checkpoint.pt` of v1 holds, which has no charge and spin."""
    backbone = {k: v for k, v in golden.facts["backbone"].items() if k not in ("ff_type", "use_dataset_embedding")}
    backbone.pop("direct_stress", None)
    backbone |= {"model": "esen_backbone", "mlp_type": golden.facts["backbone"]["ff_type"], "use_envelope": True}
    backbone.pop("always_use_pbc", None)
    heads = {"efs": {"module": "esen_mlp_efs_head"}}
    system = ("backbone.charge", "backbone.spin", "backbone.mix_csd")
    return {
        "state_dict": OrderedDict((n, w) for n, w in golden.weights.items() if not n.startswith(system)),
        "normalizers": {k: {"mean": torch.tensor(0.0), "rmsd": torch.tensor(SCALE)} for k in ("energy", "forces")},
        "elementrefs": {"energy": {"element_references": REFERENCES}},
        "config": {"model": {"name": "hydra", "backbone": backbone, "heads": heads}},
    }


def imported(held: dict[str, Any], folder: Path) -> Imported:
    path = folder / "theirs.pt"
    if "model_config" in held:
        write_inference(held, path)
    else:
        torch.save(held, path)
    return translate(read(path))


@pytest.mark.parametrize(
    ("pattern", "make"),
    [
        ("conservative_l3m2_gate_spectral", content),
        ("conservative_l2m1_gate_spectral", lambda golden: wrapped(content(golden))),
        ("conservative_l2m1_gate_spectral", old),
        ("direct_l2m1_gate_spectral", content),
    ],
    ids=["v2", "wrapped", "v1", "direct"],
)
def test_a_run_predicts_what_the_file_does(
    goldens: Callable, tmp_path: Path, pattern: str, make: Callable[..., dict[str, Any]]
) -> None:
    (golden,) = goldens(pattern)
    found = imported(make(golden), tmp_path)
    assert found.architecture == "esen"
    structures = golden.structures
    references = [float(REFERENCES[s.atomic_numbers].sum()) for s in structures]
    outputs = found.potential.double().eval()(collate(structures, found.potential.graph, torch.float64))
    expected = SCALE * golden.tensors["out64.energy"] + torch.tensor(references)
    torch.testing.assert_close(outputs.energy.detach(), expected.double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(outputs.forces.detach(), SCALE * golden.tensors["out64.forces"], rtol=1e-5, atol=1e-7)


def test_charge_and_spin_become_a_vector_of_the_model(goldens: Callable, tmp_path: Path) -> None:
    (golden,) = goldens("*chargespin")
    found = imported(content(golden), tmp_path)
    assert "The run is the model for charge 0 and spin 0" in found.notes[0]
    vector = found.potential.model.system
    expected = with_system(golden.weights, charge=0, spin=0)["backbone.system"]
    torch.testing.assert_close(vector.detach(), expected)
    assert vector.abs().max() > 0.1
    assert "max_neighbors" not in "".join(found.notes)


def test_tables_of_charge_spin_and_data_set_are_read_at_their_rows() -> None:
    torch.manual_seed(0)
    weights = {"charge_embedding.rand_emb": torch.randn(201, 4), "spin_embedding.rand_emb": torch.randn(101, 4)}
    weights |= {"dataset_embedding.dataset_emb_dict.omol": torch.randn(1, 4), "mix_csd": torch.randn(4, 12)}
    named = {f"backbone.{name}.weight": w for name, w in weights.items()} | {"backbone.mix_csd.bias": torch.randn(4)}
    rows = [weights["charge_embedding.rand_emb"][99], weights["spin_embedding.rand_emb"][3]]
    rows.append(weights["dataset_embedding.dataset_emb_dict.omol"][0])
    mixed = weights["mix_csd"] @ torch.cat(rows) + named["backbone.mix_csd.bias"]
    found = with_system(named, charge=-1, spin=3)
    assert list(found) == ["backbone.system"]
    torch.testing.assert_close(found["backbone.system"], torch.nn.functional.silu(mixed))
    with pytest.raises(DataError, match="do not fit together"):
        with_system({**named, "backbone.mix_csd.weight": torch.zeros(4, 8)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 32}, "num_experts = 32: the experts of this model are not merged"),
        ({"dataset_list": ["omol", "omat"], "use_dataset_embedding": True}, "data sets omat, omol"),
        ({"distance_function": "bessel"}, "distance_function = 'bessel'"),
        ({"chg_spin_emb_type": "lin_emb"}, "chg_spin_emb_type = 'lin_emb'"),
        ({"regress_forces": False}, "regress_forces = False"),
        ({"warp": 9}, "unknown option warp = 9"),
        ({"max_num_elements": "100"}, "max_num_elements = '100': a whole number"),
        ({"direct_forces": True}, "its heads are efs, but a model with direct_forces = True has energy and forces"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(
    goldens: Callable, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (golden,) = goldens("conservative_l2m1_gate_spectral")
    with pytest.raises(MatscaleError, match=message):
        imported(content(golden, **options), tmp_path)


def test_a_file_of_v1_without_an_envelope_is_refused(goldens: Callable, tmp_path: Path) -> None:
    (golden,) = goldens("conservative_l2m1_gate_spectral")
    held = old(golden)
    del held["config"]["model"]["backbone"]["use_envelope"]
    with pytest.raises(ConfigError, match="use_envelope = False: esen supports only True"):
        imported(held, tmp_path)


def test_every_parameter_has_a_name_of_its_own_in_fairchem(small) -> None:
    for options in ({"forces": "direct"}, {"norm": "layer_norm_sh", "feed_forward": "grid"}):
        with torch.device("meta"):
            names = [name for name, _ in ESEN(small(**options)).named_parameters()]
        theirs = {fairchem_name(name) for name in names}
        assert len(theirs) == len(names)
        assert all(name.startswith(("backbone.", "output_heads.")) for name in theirs)
