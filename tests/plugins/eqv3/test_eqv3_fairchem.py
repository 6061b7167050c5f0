"""Checkpoints of EquiformerV3 as its authors' code writes them, made of the golden models, become those models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fairchem_files import REFERENCES, SCALE
from matscale.core.data.neighbors import collate
from matscale.core.errors import MatscaleError
from matscale.core.fairchem.checkpoint import read
from matscale.core.fairchem.run import Imported, translate
from matscale.plugins.eqv3.fairchem.names import derived

STRESS = 0.5
"""Scale of the stress of direct models."""


def content(golden: Any, *, prefix: str = "module.", **options: Any) -> dict[str, Any]:
    """What `checkpoint.pt` holds: raw weights that are not the golden ones, and the golden ones as their average."""
    shapes, weights = golden.facts["state_dict_shapes"], golden.weights
    named = OrderedDict(
        (prefix + name, torch.zeros(shape) if derived(name) else weights[name] + 1) for name, shape in shapes.items()
    )
    scales = {"energy": SCALE, "forces": SCALE, "stress": STRESS if golden.is_direct else SCALE}
    scales |= {"denoising_pos_target": 0.025} if golden.denoises else {}
    return {
        "state_dict": named,
        "normalizers": {k: {"mean": torch.tensor(0.0), "rmsd": torch.tensor(rmsd)} for k, rmsd in scales.items()},
        "elementrefs": {"energy": {"element_references": REFERENCES}},
        "ema": {
            "decay": 0.999,
            "num_updates": 7,
            "shadow_params": [weights[name] for name in shapes if not derived(name)],
            "collected_params": [],
        },
        "config": {"model": {**golden.facts["model"], **options}, "optim": {"ema_decay": 0.999}},
    }


def imported(held: dict[str, Any], folder: Path) -> Imported:
    path = folder / "theirs.pt"
    torch.save(held, path)
    return translate(read(path))


@pytest.mark.parametrize(
    ("pattern", "prefix"), [("gradient_l3m2", "module."), ("direct_l3m2", "_orig_mod.module."), ("dens_l3m2", "")]
)
def test_a_run_predicts_what_the_averaged_weights_do(
    goldens: Callable, tmp_path: Path, pattern: str, prefix: str
) -> None:
    (golden,) = goldens(pattern)
    found = imported(content(golden, prefix=prefix), tmp_path)
    assert (found.architecture, found.weights) == ("eqv3", "ema")
    assert found.config.denoising == golden.denoises
    assert len(found.notes) == (0 if golden.is_direct else 2)
    structures = golden.structures
    outputs = found.potential.double().eval()(collate(structures, found.potential.graph, torch.float64))
    kind = "out64_dens_off" if golden.denoises else "out64"
    references = torch.stack([REFERENCES[s.atomic_numbers].sum() for s in structures]).double()
    expected = {name: golden.tensors[f"{kind}.{name}"] for name in ("energy", "forces", "stress")}
    stress = STRESS if golden.is_direct else SCALE
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(outputs.energy.detach(), SCALE * expected["energy"] + references, **close)
    torch.testing.assert_close(outputs.forces.detach(), SCALE * expected["forces"], **close)
    torch.testing.assert_close(outputs.stress.detach().flatten(1), stress * expected["stress"], **close)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm_type": "sep_layer_norm"}, "norm_type = 'sep_layer_norm': eqv3 supports only 'merge_layer_norm'"),
        ({"attn_activation": "sep_s2_swiglu"}, "attn_activation = 'sep_s2_swiglu'"),
        ({"use_envelope": False}, "use_envelope = False"),
        ({"softcap": 2.0}, "softcap = 2.0"),
        ({"regress_forces": False}, "regress_forces = False"),
        ({"attn_grid_resolution_list": [8, 8]}, r"attn_grid_resolution_list = \[8, 8\] with lmax = 3 and mmax = 2"),
        ({"ffn_grid_resolution_list": [12, 9]}, r"ffn_grid_resolution_list = \[12, 9\].*more than 9 longitudes"),
        ({"max_num_elements": "128"}, "max_num_elements = '128': a whole number"),
        ({"warp": 9}, "unknown option warp = 9"),
        ({"num_layers": 3}, "may belong to a model with other options|has numbers for|another"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(
    goldens: Callable, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    (golden,) = goldens("direct_l3m2")
    with pytest.raises(MatscaleError, match=message):
        imported(content(golden, **options), tmp_path)


def test_a_stress_that_is_shifted_is_refused(goldens: Callable, tmp_path: Path) -> None:
    (golden,) = goldens("direct_l2m1")
    held = content(golden)
    held["normalizers"]["stress"]["mean"] = torch.tensor(0.1)
    with pytest.raises(MatscaleError, match=r"the normalizer of stress adds 0\.1 to each component"):
        imported(held, tmp_path)
