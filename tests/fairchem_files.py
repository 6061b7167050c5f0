"""Checkpoints in fairchem's form, made of the golden models: its own weights, and the numbers that it predicts."""

from __future__ import annotations

import json
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from matscale.core.data.structure import Structure

GOLDEN = {
    "schnet": ("schnet_tiny", "default", "weights.", "out64."),
    "gemnet-t": ("gemnet_t_tiny", "gradient", "gradient.weights.", "gradient.out64."),
    "gemnet-dt": ("gemnet_t_tiny", "direct", "direct.weights.", "direct.out64."),
    "gemnet-oc": ("gemnet_oc_tiny", "direct", "direct.weights.", "direct.out64."),
    "escaip-direct": ("escaip_tiny", "direct", "direct.weights.", "direct.out32."),
    "escaip-gradient": ("escaip_tiny", "gradient", "gradient.weights.", "gradient.out32."),
}
"""Model -> file, variant, and prefixes of its weights and of its outputs."""
NAMES = {"schnet": "schnet", "gemnet-t": "gemnet_t", "gemnet-dt": "gemnet_t", "gemnet-oc": "gemnet_oc"}
REFERENCES = -0.1 * torch.arange(119)
"""eV; every element has one."""
SCALE, FORCES_SCALE = 1.75, 0.5
"""Of the energy and all that is derived from it; of forces that are not."""


@dataclass(frozen=True)
class Theirs:
    """A model of fairchem: options, weights, structures and what it predicts for them, before it is scaled."""

    kind: str
    options: dict[str, Any]
    weights: dict[str, Tensor]
    structures: list[Structure]
    outputs: dict[str, Tensor]

    @classmethod
    def golden(cls, shared: Path, kind: str) -> Theirs:
        file, variant, weights, outputs = GOLDEN[kind]
        facts = json.loads((shared / "golden" / f"{file}.json").read_text())
        tensors = load_file(shared / "golden" / f"{file}.safetensors")
        structures = [
            Structure(
                np.array(s["numbers"]),
                np.array(s["positions"]),
                np.array(s["cell"]).reshape(3, 3),
                np.ones(3, dtype=bool),
            )
            for s in facts["inputs"]
        ]
        options = dict(facts["variants"][variant]["config"])
        return cls(
            kind,
            options,
            _shared({n.removeprefix(weights): t for n, t in tensors.items() if n.startswith(weights)}),
            structures,
            {n.removeprefix(outputs): t for n, t in tensors.items() if n.startswith(outputs)},
        )

    @property
    def is_derived(self) -> bool:
        return self.kind in ("schnet", "gemnet-t", "escaip-gradient")

    @property
    def is_new(self) -> bool:
        """Of fairchem 2."""
        return self.kind.startswith("escaip")

    def expected(self) -> dict[str, Tensor]:
        """By fairchem's formulas."""
        references = torch.tensor([float(REFERENCES[s.atomic_numbers].sum()) for s in self.structures])
        found = {"energy": SCALE * self.outputs["energy"].flatten() + references}
        found["forces"] = (SCALE if self.is_derived else FORCES_SCALE) * self.outputs["forces"]
        if "stress" in self.outputs:
            found["stress"] = SCALE * self.outputs["stress"].view(-1, 3, 3)
        return found

    def raw(self) -> dict[str, Tensor]:
        """Weights that are not the average: other values of what is trained, one tensor for its several names."""
        torch.manual_seed(0)
        changed = {id(w): w + 0.1 * torch.randn_like(w) for w in self.weights.values()}
        kept = re.compile(r".*(scale_factor|rbf\.offset|distance_expansion\.offset)$")
        return OrderedDict((n, w if kept.match(n) else changed[id(w)]) for n, w in self.weights.items())

    def average(self) -> list[Tensor]:
        """As a training keeps it: without names, each trained parameter once."""
        seen: dict[int, Tensor] = {}
        for name, weight in self.weights.items():
            if not re.match(r".*(scale_factor|rbf\.offset|distance_expansion\.offset)$", name):
                seen.setdefault(id(weight), weight)
        return list(seen.values())

    # Files ------------------------------------------------------------------------------------------------------------

    def content(self, **changes: Any) -> dict[str, Any]:
        """What `checkpoint.pt` holds, or the attributes of an inference checkpoint."""
        return {**(self._inference() if self.is_new else self._training()), **changes}

    def best(self) -> dict[str, Any]:
        """What `best_checkpoint.pt` holds: the average by name."""
        held = self.content(state_dict=OrderedDict(self.weights))
        return {key: held[key] for key in ("state_dict", "normalizers", "elementrefs", "config")}

    def _training(self) -> dict[str, Any]:
        forces = SCALE if self.is_derived else FORCES_SCALE
        pairs = {"energy": SCALE, "forces": forces}
        return {
            "epoch": 1.5,
            "step": 12,
            "state_dict": self.raw(),
            "normalizers": {k: {"mean": torch.tensor(0.0), "rmsd": torch.tensor(v)} for k, v in pairs.items()},
            "elementrefs": {"energy": {"element_references": REFERENCES}},
            "config": {"model": {"name": NAMES[self.kind], **self.options}, "optim": {"ema_decay": 0.9}, "cmd": {}},
            "optimizer": {"state": {}, "param_groups": []},
            "ema": {"decay": 0.9, "num_updates": None, "shadow_params": self.average(), "collected_params": []},
        }

    def _inference(self) -> dict[str, Any]:
        """Heads are named as a recipe does, by the data set."""
        renamed = {"output_heads.energy.": "output_heads.omat_energy.", "output_heads.efs.": "output_heads.omat."}
        renamed["output_heads.forces."] = "output_heads.omat_forces."
        raw, average = self.raw(), dict(self.weights)
        for short, long in renamed.items():
            raw = {name.replace(short, long): w for name, w in raw.items()}
            average = {name.replace(short, long): w for name, w in average.items()}
        heads: dict[str, Any] = {"omat": {"module": "EScAIP_grad_energy_force_stress_head", "prefix": "omat"}}
        if not self.is_derived:
            heads = {"omat_energy": {"module": "EScAIP_energy_head"}}
            heads["omat_forces"] = {"module": "EScAIP_direct_force_head"}
        scales = {"energy": SCALE, "forces": SCALE, "stress": SCALE} if self.is_derived else {"energy": SCALE}
        if not self.is_derived:
            scales["forces"] = FORCES_SCALE
        backbone = {"model": "EScAIP_backbone", **self.options}
        return {
            "model_config": {"_target_": f"{BASE}.HydraModel", "backbone": backbone, "heads": heads},
            "model_state_dict": OrderedDict(raw),
            "ema_state_dict": OrderedDict(n_averaged=torch.tensor(3), **{f"module.{n}": w for n, w in average.items()}),
            "tasks_config": [task(quantity, scale) for quantity, scale in scales.items()],
        }


BASE = "fairchem.core.models.base"
NORMALIZATION = "fairchem.core.modules.normalization"


def task(quantity: str, scale: float, **changes: Any) -> dict[str, Any]:
    """An entry of `tasks_config`."""
    found = {
        "_target_": "fairchem.core.units.mlip_unit.mlip_unit.Task",
        "name": f"omat_{quantity}",
        "property": quantity,
        "normalizer": {"_target_": f"{NORMALIZATION}.normalizer.Normalizer", "mean": 0.0, "rmsd": scale},
        "datasets": ["omat"],
    }
    if quantity == "energy":
        row = {"_target_": "torch.DoubleTensor", "_args_": [REFERENCES.tolist()]}
        target = f"{NORMALIZATION}.element_references.ElementReferences"
        found["element_references"] = {"_target_": target, "element_references": row}
    return {**found, **changes}


def _shared(named: dict[str, Tensor]) -> dict[str, Tensor]:
    """One tensor where two names have the same: a file of safetensors had to hold it twice."""
    kept: list[Tensor] = []
    for name, tensor in named.items():
        same = next((k for k in kept if k.dim() and k.shape == tensor.shape and torch.equal(k, tensor)), None)
        named[name] = tensor if same is None else same
        kept.append(named[name])
    return named


# The classes of fairchem 2 --------------------------------------------------------------------------------------------

CHECKPOINT = "fairchem.core.units.mlip_unit.api.inference MLIPInferenceCheckpoint"
WRAPPERS = ("omegaconf.dictconfig DictConfig", "omegaconf.listconfig ListConfig", "omegaconf.nodes AnyNode")


@contextmanager
def classes(*names: str) -> Iterator[dict[str, type]]:
    """Classes of these `module name`s, as far as pickling goes."""
    made, before = {}, dict(sys.modules)
    for path in names:
        module, _, name = path.partition(" ")
        parts = module.split(".")
        for above in (".".join(parts[: k + 1]) for k in range(len(parts))):
            sys.modules.setdefault(above, ModuleType(above))
        made[name] = type(name, (), {"__module__": module})
        setattr(sys.modules[module], name, made[name])
    try:
        yield made
    finally:
        for name in set(sys.modules) - set(before):
            del sys.modules[name]


def write_inference(content: dict[str, Any], path: Path, *extra: str) -> Path:
    """As fairchem 2 does: an object of its class, with settings of OmegaConf's; `extra` classes stand in the tasks."""
    with classes(CHECKPOINT, *WRAPPERS, *extra) as made:

        def wrapped(value: Any, parent: Any = None) -> Any:
            kind = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
            node = made[kind]()
            inner: Any = value
            if isinstance(value, dict):
                inner = {key: wrapped(each, node) for key, each in value.items()}
            elif isinstance(value, list):
                inner = [wrapped(each, node) for each in value]
            node.__dict__ |= {"_parent": parent, "_val" if kind == "AnyNode" else "_content": inner}
            return node

        checkpoint = made["MLIPInferenceCheckpoint"]()
        for key, value in content.items():
            checkpoint.__dict__[key] = wrapped(value) if key.endswith("_config") else value
        for name in extra:
            checkpoint.tasks_config._content.append(made[name.partition(" ")[2]]())
        torch.save(checkpoint, path, pickle_module=pickle)
    assert zipfile.is_zipfile(path)
    return path


def write(theirs: Theirs, content: dict[str, Any], path: Path) -> Path:
    if theirs.is_new:
        return write_inference(content, path)
    torch.save(content, path)
    return path
