"""GemNet-dT and -OC against fairchem-core 1.10.0 in float64, structure by structure, with random weights.

    PYTHONPATH=src VENV/bin/python benchmarks/gemnet_agreement.py STRUCTURES [--case gemnet-OC] [--size small]

VENV and STRUCTURES as for `models.py`, whose weights, edges and sizes these are. fairchem's models are made to
compute in float64: `Tensor.float` then means double, and the centres of the Gaussians are set to that precision. On
the first line fairchem chooses among neighbours at one distance as its sort happens to leave them, on the second as
matscale does (`peers.ties_as_ours`); on the third besides our `EPSILON` of the dihedrals is the 10⁻⁹ of fairchem.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import peers
import torch
from ground import Side
from models import batches, ours, share_weights
from torch import Tensor

from matscale.core.data.batch import AtomicBatch
from matscale.plugins.gemnet import dihedrals


def theirs(case: str, size: str, data: list[AtomicBatch], are_ties_ours: bool) -> Side:
    torch.manual_seed(0)
    model, predict = peers.fairchem(case, size, data, are_ties_ours)
    return Side("fairchem", model, predict, torch.optim.AdamW(model.parameters()))


def in_double(side: Side) -> None:
    side.model.double()
    for module in side.model.modules():
        if isinstance(offset := getattr(module, "offset", None), Tensor):
            module.offset = torch.linspace(0, 1, len(offset), dtype=torch.float64)


def worst(a: Side, b: Side, data: list[AtomicBatch]) -> str:
    """Per structure, the largest difference of forces over the largest force of all; and of energies, likewise."""
    shown = []
    with torch.no_grad():
        pairs = [(a.predict(k), b.predict(k)) for k in range(len(data))]
    for name in ("energy", "forces"):
        largest = max(float(x[name].abs().max()) for x, _ in pairs)
        found = []
        for one, (x, y) in zip(data, pairs):
            difference = (x[name] - y[name]).abs() / largest
            found += [float(part.max()) for part in parts_of(difference, one)]
        shown.append(f"{name} {max(found):.0e} (structures above 1e-8: {[k for k, d in enumerate(found) if d > 1e-8]})")
    return ", ".join(shown)


def parts_of(x: Tensor, data: AtomicBatch) -> tuple[Tensor, ...]:
    return x.split(1) if len(x) == data.n_structures else x.split(data.atoms_per_structure.tolist())


def compare(case: str, size: str, path: Path) -> None:
    data = batches(path, case, size, torch.float64)
    own = ours(case, size, data)
    peer, exact = (theirs(case, size, data, are_ties_ours) for are_ties_ours in (False, True))
    share_weights(case, own, [peer])
    exact.model.load_state_dict(peer.model.state_dict())
    for side in (own, peer, exact):
        in_double(side)
    print(f"{case}: as it is: {worst(own, peer, data)}", flush=True)
    print(f"{case}: with our neighbours: {worst(own, exact, data)}", flush=True)
    dihedrals.EPSILON = 1e-9
    print(f"{case}: and EPSILON of 1e-9: {worst(own, exact, data)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("structures", type=Path)
    parser.add_argument("--case", nargs="+", choices=("gemnet-dT", "gemnet-OC"), default=["gemnet-OC"])
    parser.add_argument("--size", choices=("small", "published"), default="small")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    for case in arguments.case:
        compare(case, arguments.size, arguments.structures)


if __name__ == "__main__":
    main()
