"""The part of `fairchem_agreement.py` that runs under an interpreter with fairchem-core 2, and without matscale.

    python benchmarks/fairchem2_side.py write KIND FOLDER                  an inference checkpoint of EScAIP
    python benchmarks/fairchem2_side.py predict STRUCTURES OUT.json CHECKPOINT ...       its model and tasks predict

KIND: `escaip-direct` or `escaip-gradient`, small. The model is one of fairchem's that took three steps of AdamW on
random labels, its average the one that its trainer keeps, its configuration an OmegaConf of the form of its recipes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fairchem.core.models.escaip.EScAIP  # noqa: F401  registers its model and heads
import hydra
import numpy as np
import torch
from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint
from fairchem.core.units.mlip_unit.utils import load_inference_model, load_tasks
from omegaconf import OmegaConf

BACKBONE = {
    "model": "EScAIP_backbone",
    "regress_forces": True,
    "num_layers": 2,
    "hidden_size": 32,
    "use_compile": False,
    "use_padding": False,
    "dataset_list": ["omat"],
    "max_num_elements": 96,
    "max_batch_size": 8,
    "max_atoms": 64,
    "max_radius": 6.0,
    "use_pbc": True,
    "knn_k": 12,
    "knn_soft": True,
    "knn_sigmoid_scale": 0.2,
    "knn_lse_scale": 0.1,
    "knn_use_low_mem": True,
    "knn_pad_size": 30,
    "atten_name": "math",
    "atten_num_heads": 4,
    "atom_embedding_size": 12,
    "node_direction_embedding_size": 10,
    "node_direction_expansion_size": 6,
    "edge_distance_expansion_size": 40,
    "edge_distance_embedding_size": 24,
    "freequency_list": [4, 2, 1, 1],
}
HEADS = {
    "escaip-direct": {
        "omat_energy": {"module": "EScAIP_energy_head"},
        "omat_forces": {"module": "EScAIP_direct_force_head"},
    },
    "escaip-gradient": {
        "omat": {"module": "EScAIP_grad_energy_force_stress_head", "prefix": "omat", "wrap_property": False}
    },
}
UNIT = "fairchem.core.units.mlip_unit.mlip_unit"
NORMALIZATION = "fairchem.core.modules.normalization"
LEVELS = {"energy": ("system", [1]), "forces": ("atom", [3]), "stress": ("system", [1, 9])}


def references() -> list[float]:
    return [0.0 if z not in (13, 28, 29, 46) else -3.0 - 0.05 * z for z in range(100)]


def task(quantity: str, rmsd: float) -> dict[str, Any]:
    """As a recipe has it: what to make is named, and made when the checkpoint is loaded."""
    level, shape = LEVELS[quantity]
    found = {
        "_target_": f"{UNIT}.Task",
        "name": f"omat_{quantity}",
        "level": level,
        "property": quantity,
        "loss_fn": {"_target_": "fairchem.core.modules.loss.DDPMTLoss", "loss_fn": {"_target_": "torch.nn.L1Loss"}},
        "out_spec": {"_target_": f"{UNIT}.OutputSpec", "dim": shape, "dtype": "float32"},
        "normalizer": {"_target_": f"{NORMALIZATION}.normalizer.Normalizer", "mean": 0.0, "rmsd": rmsd},
        "datasets": ["omat"],
        "metrics": ["mae"],
    }
    if quantity == "energy":
        tensor = {"_target_": "torch.DoubleTensor", "_args_": [references()]}
        found["element_references"] = {
            "_target_": f"{NORMALIZATION}.element_references.ElementReferences",
            "element_references": tensor,
        }
    return found


def write(kind: str, folder: Path) -> None:
    torch.manual_seed(3)
    is_direct = kind == "escaip-direct"
    backbone = {**BACKBONE, "direct_forces": is_direct, "regress_stress": not is_direct}
    unit = {
        "model": {
            "_target_": "fairchem.core.models.base.HydraModel",
            "backbone": backbone,
            "heads": HEADS[kind],
            "pass_through_head_outputs": True,
            "otf_graph": True,
        },
        "tasks": [task("energy", 1.7), task("forces", 1.7 if not is_direct else 0.9)],
    }
    if not is_direct:
        unit["tasks"].append(task("stress", 1.7))
    else:  # two heads, each with one output: named by the head
        unit["model"]["pass_through_head_outputs"] = False
    config = OmegaConf.create({"runner": {"train_eval_unit": unit}}).runner.train_eval_unit
    model = hydra.utils.instantiate(config.model)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) / max(parameter.shape[-1], 1) ** 0.5
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for _ in range(3):
        sum((p * torch.randn_like(p)).sum() for p in model.parameters()).backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(
        MLIPInferenceCheckpoint(
            model_config=config.model,
            model_state_dict=model.state_dict(),
            ema_state_dict=average.state_dict(),
            tasks_config=config.tasks,
        ),
        folder / "inference_ckpt.pt",
    )


def predict(structures: Path, out: Path, checkpoints: list[str]) -> None:
    """Energy, forces and stress with the averaged weights, as its predictor takes them; `raw:PATH` the others."""
    from ase.io import read

    found: dict[str, list[dict[str, Any]]] = {}
    for word in checkpoints:
        path = word.removeprefix("raw:")
        model, _ = load_inference_model(path, use_ema=word == path)
        model, tasks = model.eval(), {task.name: task for task in load_tasks(path)}
        found[word] = [_predicted(model, tasks, atoms) for atoms in read(structures, ":")]
    out.write_text(json.dumps(found))


def _predicted(model: torch.nn.Module, tasks: dict[str, Any], atoms: Any) -> dict[str, Any]:
    batch = atomicdata_list_to_batch([AtomicData.from_ase(atoms, task_name="omat", r_edges=False)])
    outputs, found = model(batch), {}
    for name, each in tasks.items():
        # A head has either one output or, with a prefix, several that are named as the tasks.
        raw = outputs[name] if isinstance(outputs[name], torch.Tensor) else outputs[name][each.property]
        value = each.normalizer.denorm(raw)
        if each.element_references is not None:
            value = each.element_references.undo_refs(batch, value)
        found[each.property] = value.detach().double().numpy()
    values = {"energy": float(found["energy"].squeeze()), "forces": found["forces"].tolist()}
    if "stress" in found:
        voigt = found["stress"].reshape(3, 3)[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        values["stress"] = np.asarray(voigt).tolist()
    return values


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "write":
        write(sys.argv[2], Path(sys.argv[3]))
    else:
        predict(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
