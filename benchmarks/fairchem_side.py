"""The part of `fairchem_agreement.py` that runs under an interpreter with fairchem-core 1.10, and without matscale.

    python benchmarks/fairchem_side.py train MODEL FOLDER           its trainer writes (best_)checkpoint.pt there
    python benchmarks/fairchem_side.py predict STRUCTURES OUT.json CHECKPOINT ...           its calculator predicts

MODEL: of EquiformerV2 `small` (177,525 parameters with its heads), `S` (31,207,434), `old` (small, in the form from
before hydra); and small ones of the others: `schnet`, `gemnet-t`, `gemnet-dt`, `gemnet-oc`, `gemnet-dt-hydra`,
`gemnet-oc-hydra`.
fairchem v1 needs torch_scatter and torch_sparse; here `standins` has what it needs of them.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import standins
import torch

COMMON = {
    "use_pbc": True,
    "use_pbc_single": True,
    "otf_graph": True,
    "enforce_max_neighbors_strictly": False,
    "max_num_elements": 96,
    "avg_num_nodes": 31.17,
    "avg_degree": 61.95,
    "norm_type": "layer_norm_sh",
    "use_atom_edge_embedding": True,
    "share_atom_edge_embedding": False,
    "use_m_share_rad": False,
    "distance_function": "gaussian",
    "num_distance_basis": 512,
    "attn_activation": "silu",
    "ffn_activation": "silu",
    "use_s2_act_attn": False,
    "use_attn_renorm": True,
    "use_gate_act": False,
    "use_grid_mlp": True,
    "use_sep_s2_act": True,
    "alpha_drop": 0.1,
    "drop_path_rate": 0.1,
    "proj_drop": 0.0,
    "weight_init": "uniform",
}
SIZE = (
    *("num_layers", "sphere_channels", "attn_hidden_channels", "num_heads", "attn_alpha_channels"),
    *("attn_value_channels", "ffn_hidden_channels", "edge_channels", "lmax_list", "mmax_list"),
    *("grid_resolution", "max_radius", "max_neighbors"),
)
SMALL = dict(zip(SIZE, (2, 16, 12, 4, 8, 4, 20, 16, [3], [2], 14, 8.0, 12)))
S = dict(zip(SIZE, (8, 128, 64, 8, 64, 16, 128, 128, [4], [2], 18, 12.0, 20)))
HEADS = {
    "energy": {"module": "equiformer_v2_energy_head"},
    "forces": {"module": "equiformer_v2_force_head"},
    "stress": {
        "module": "rank2_symmetric_head",
        "output_name": "stress",
        "use_source_target_embedding": True,
        "decompose": True,
    },
}
PARTS = {"stress_isotropic": {"irrep_dim": 0}, "stress_anisotropic": {"irrep_dim": 2}}
OUTPUTS: dict[str, dict[str, Any]] = {
    "energy": {"shape": 1, "level": "system", "property": "energy"},
    "forces": {
        "irrep_dim": 1,
        "level": "atom",
        "property": "forces",
        "train_on_free_atoms": True,
        "eval_on_free_atoms": True,
    },
    "stress": {"level": "system", "property": "stress", "irrep_dim": 2, "decomposition": PARTS},
}
LOSSES: list[dict[str, dict[str, Any]]] = [
    {"energy": {"fn": "per_atom_mae", "coefficient": 2.5}},
    {"forces": {"fn": "l2mae", "coefficient": 20}},
    {"stress_isotropic": {"fn": "mae", "coefficient": 5, "reduction": "mean"}},
    {"stress_anisotropic": {"fn": "mae", "coefficient": 5, "reduction": "mean"}},
]


SCHNET = {
    "name": "schnet",
    "hidden_channels": 32,
    "num_filters": 24,
    "num_interactions": 3,
    "num_gaussians": 40,
    "cutoff": 6.0,
    "use_pbc": True,
    "otf_graph": True,
}
GEMNET = {
    "num_spherical": 5,
    "num_radial": 16,
    "num_blocks": 2,
    "emb_size_atom": 24,
    "emb_size_edge": 20,
    "emb_size_rbf": 8,
    "emb_size_cbf": 8,
    "num_before_skip": 1,
    "num_after_skip": 1,
    "num_concat": 1,
    "num_atom": 2,
    "cutoff": 5.0,
    "max_neighbors": 16,
    "rbf": {"name": "gaussian"},
    "cbf": {"name": "spherical_harmonics"},
    "envelope": {"name": "polynomial", "exponent": 5},
    "extensive": True,
    "otf_graph": True,
    "use_pbc": True,
    "output_init": "HeOrthogonal",
    "activation": "silu",
    "num_elements": 90,
    "regress_forces": True,
}
GEMNET_T = {**GEMNET, "name": "gemnet_t", "emb_size_trip": 12, "emb_size_bil_trip": 10}
GEMNET_OC = {
    **GEMNET,
    "name": "gemnet_oc",
    "direct_forces": True,
    "emb_size_trip_in": 12,
    "emb_size_trip_out": 10,
    "emb_size_quad_in": 8,
    "emb_size_quad_out": 6,
    "emb_size_aint_in": 12,
    "emb_size_aint_out": 10,
    "emb_size_sbf": 10,
    "num_output_afteratom": 2,
    "num_atom_emb_layers": 2,
    "num_global_out_layers": 2,
    "cutoff_qint": 5.0,
    "cutoff_aeaint": 5.0,
    "cutoff_aint": 6.0,
    "max_neighbors_qint": 6,
    "max_neighbors_aeaint": 8,
    "max_neighbors_aint": 60,
    "sbf": {"name": "legendre_outer"},
    "quad_interaction": True,
    "atom_edge_interaction": True,
    "edge_atom_interaction": True,
    "atom_interaction": True,
    "qint_tags": [0, 1, 2],
}
OTHERS: dict[str, dict[str, Any]] = {
    "schnet": SCHNET,
    "gemnet-t": {**GEMNET_T, "direct_forces": False},
    "gemnet-dt": {**GEMNET_T, "direct_forces": True},
    "gemnet-oc": GEMNET_OC,
}


def hydra(model: dict[str, Any]) -> dict[str, Any]:
    """A GemNet with direct forces, with a backbone and heads."""
    name = model["name"]
    depth = {"num_global_out_layers": model["num_global_out_layers"]} if name == "gemnet_oc" else {}
    heads = {"energy": {"module": f"{name}_energy_and_grad_force_head", **depth}}
    heads["forces"] = {"module": f"{name}_force_head", **depth}
    backbone = {"model": f"{name}_backbone", **{key: value for key, value in model.items() if key != "name"}}
    return {"name": "hydra", "pass_through_head_outputs": True, "otf_graph": True, "backbone": backbone, "heads": heads}


def _broadcast(src: torch.Tensor, other: torch.Tensor, dim: int) -> torch.Tensor:
    shape = [1] * other.dim()
    shape[dim] = -1
    return src.view(shape).expand_as(other)


def install_standins() -> None:
    """Before fairchem is imported; `setup_imports` takes in every model, one of which has a wish of its own."""
    standins.install()
    utils = ModuleType("torch_scatter.utils")
    utils.broadcast = _broadcast
    sys.modules["torch_scatter.utils"] = utils


def write_data(folder: Path) -> None:
    """Sixteen strained and rattled cells of four metals, with the labels of ASE's EMT."""
    from ase.build import bulk
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect

    folder.mkdir(parents=True)
    rng, counts = np.random.default_rng(0), []
    with connect(str(folder / "data.aselmdb"), type="aselmdb") as db:
        for k in range(16):
            atoms = bulk(["Al", "Cu", "Ni", "Pd"][k % 4], "fcc", a=4.0, cubic=True)
            if k % 3 == 0:
                atoms.numbers[1] = 29
            atoms.rattle(0.1, rng=rng)
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.04 * rng.standard_normal((3, 3))), scale_atoms=True)
            atoms.calc = EMT()
            labels = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
            atoms.calc = SinglePointCalculator(atoms, **labels)
            db.write(atoms)
            counts.append(len(atoms))
    np.savez(folder / "metadata.npz", natoms=np.array(counts), neighbors=20 * np.array(counts))


def train(kind: str, folder: Path) -> None:
    """A few steps of fairchem's own trainer."""
    from fairchem.core.common.registry import registry
    from fairchem.core.common.utils import setup_imports

    setup_imports()
    for name in ("train", "val"):
        write_data(folder / name)
    options = {**COMMON, **(S if kind == "S" else SMALL)}
    has_stress = kind in ("small", "S")
    model: dict[str, Any] = {"name": "equiformer_v2", **options}
    other = kind.removesuffix("-hydra")
    if other in OTHERS:
        model = OTHERS[other] if kind == other else hydra(OTHERS[other])
    elif has_stress:
        backbone = {"model": "equiformer_v2_backbone", **options}
        model = {"name": "hydra", "pass_through_head_outputs": True, "otf_graph": True}
        model |= {"backbone": backbone, "heads": HEADS}
    decompose = {"decompose_tensor": {"tensor": "stress", "rank": 2, "decomposition": PARTS}} if has_stress else {}
    fit = {"batch_size": 4, "num_batches": 4}
    normal = {
        "fit": {"targets": {"forces": {"mean": 0.0}, **({name: {} for name in PARTS} if has_stress else {})}, **fit}
    }
    if kind in OTHERS:  # forces that are derivatives have the scale of the energy
        normal = {"energy": {"mean": 0.0, "stdev": 1.7}, "forces": {"mean": 0.0, "stdev": 1.7}}
    data = {
        "format": "ase_db",
        "src": str(folder / "train"),
        "a2g_args": {"r_energy": True, "r_forces": True, "r_stress": has_stress},
        "transforms": {
            **decompose,
            "element_references": {"fit": {"targets": ["energy"], "driver": "gelsd", **fit}},
            "normalizer": normal,
        },
    }
    batch = 8 if kind == "S" else 4
    optimizer = {
        "batch_size": batch,
        "eval_batch_size": 4,
        "eval_every": 2 if kind == "S" else 4,
        "num_workers": 0,
        "load_balancing": "atoms",
        "optimizer": "AdamW",
        "optimizer_params": {"weight_decay": 1e-3},
        "lr_initial": 1e-3,
        "clip_grad_norm": 100,
        "max_epochs": 1 if kind == "S" else 2,
        "ema_decay": 0.9,
        "scheduler": "LambdaLR",
        "scheduler_params": {"lambda_type": "cosine", "warmup_factor": 0.2, "warmup_epochs": 1, "lr_min_factor": 0.01},
    }
    trainer = registry.get_trainer_class("equiformerv2_forces")(
        task={},
        model=model,
        outputs={name: value for name, value in OUTPUTS.items() if has_stress or name != "stress"},
        dataset={"train": data, "val": {**data, "src": str(folder / "val"), "transforms": decompose}},
        optimizer=optimizer,
        loss_functions=LOSSES if has_stress else LOSSES[:2],
        evaluation_metrics={"metrics": {"energy": ["mae"], "forces": ["mae"]}, "primary_metric": "forces_mae"},
        identifier=kind,
        run_dir=str(folder / "run"),
        local_rank=0,
        cpu=True,
        seed=0,
        logger="tensorboard",
    )
    with torch.no_grad():
        for k, (name, parameter) in enumerate(trainer.model.named_parameters()):
            if name.endswith("scale_factor"):
                parameter.fill_(0.8 + 0.01 * (k % 40))  # as its fit.py would leave them, not measured here
    trainer.train()
    for path in (folder / "run" / "checkpoints").rglob("*checkpoint.pt"):
        shutil.copy(path, folder / path.name)


def predict(structures: Path, out: Path, checkpoints: list[str]) -> None:
    """Energy, forces and stress of fairchem's calculator, by checkpoint."""
    from ase.io import read
    from fairchem.core import OCPCalculator

    found: dict[str, list[dict[str, Any]]] = {}
    for path in checkpoints:
        calculator = OCPCalculator(checkpoint_path=path, cpu=True, seed=0)
        found[path] = []
        for atoms in read(structures, ":"):
            atoms.calc = calculator
            values = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces().tolist()}
            if "stress" in calculator.implemented_properties:
                values["stress"] = atoms.get_stress().tolist()
            found[path].append(values)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    install_standins()
    if sys.argv[1] == "train":
        train(sys.argv[2], Path(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
