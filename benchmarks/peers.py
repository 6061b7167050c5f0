"""SchNet, GemNet-dT and GemNet-OC of other packages, on our edges and with one set of weights, for `models.py`.

A peer is (model, predict): `predict(k)` gives energy [n_structures] and forces [n_atoms, 3] of batch k. Its graphs are
matscale's, made before the clock starts; distances, and all that follows, are computed by each package itself.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import standins
import torch
from torch import Tensor, nn

from matscale.core.data.batch import AtomicBatch
from matscale.plugins.gemnet import GemNetConfig
from matscale.plugins.gemnet.fairchem.options import config_from_fairchem
from matscale.plugins.schnet import SIZES, SchNetConfig

Predict = Callable[[int], dict[str, Tensor]]
Peer = tuple[nn.Module, Predict]

_GEMNET = {
    "regress_forces": True,
    "direct_forces": True,
    "use_pbc": True,
    "otf_graph": True,
    "num_elements": 83,
    "num_spherical": 7,
    "num_radial": 128,
    "emb_size_rbf": 16,
    "emb_size_cbf": 16,
    "num_after_skip": 2,
    "num_concat": 1,
    "num_atom": 3,
}
GEMNET_T = {
    **_GEMNET,
    "num_blocks": 3,
    "emb_size_atom": 512,
    "emb_size_edge": 512,
    "emb_size_trip": 64,
    "emb_size_bil_trip": 64,
    "num_before_skip": 1,
    "cutoff": 6.0,
    "max_neighbors": 50,
}
GEMNET_OC = {
    **_GEMNET,
    "num_blocks": 4,
    "emb_size_atom": 256,
    "emb_size_edge": 512,
    "emb_size_trip_in": 64,
    "emb_size_trip_out": 64,
    "emb_size_quad_in": 32,
    "emb_size_quad_out": 32,
    "emb_size_aint_in": 64,
    "emb_size_aint_out": 64,
    "emb_size_sbf": 32,
    "num_before_skip": 2,
    "num_atom_emb_layers": 2,
    "num_output_afteratom": 3,
    "num_global_out_layers": 2,
    "sbf": {"name": "legendre_outer"},
    "quad_interaction": True,
    "atom_edge_interaction": True,
    "edge_atom_interaction": True,
    "atom_interaction": True,
    "qint_tags": [0, 1, 2],
    **dict.fromkeys(("cutoff", "cutoff_qint", "cutoff_aeaint", "cutoff_aint"), 12.0),
    "max_neighbors": 30,
    "max_neighbors_qint": 8,
    "max_neighbors_aeaint": 20,
    "max_neighbors_aint": 1000,
}
_SMALL = {"num_blocks": 2, "emb_size_atom": 64, "emb_size_edge": 64}
GEMNET = {
    ("gemnet-dT", "published"): GEMNET_T,
    ("gemnet-dT", "small"): {**GEMNET_T, **_SMALL, "max_neighbors": 20},
    ("gemnet-OC", "published"): GEMNET_OC,
    ("gemnet-OC", "small"): {**GEMNET_OC, **_SMALL, "max_neighbors": 20},
}
_SCHNET = {"n_layers": 6, "max_atomic_number": 99}
SCHNET = {
    ("schnet", "small"): SchNetConfig.parse({**_SCHNET, "max_neighbors": 50}),
    ("schnet", "published"): SIZES["oc20-all"],
    ("schnet-radius", "small"): SchNetConfig.parse(_SCHNET),
    ("schnet-radius", "published"): SIZES["oc20-all"].model_copy(update={"max_neighbors": None}),
}


def config(case: str, size: str) -> SchNetConfig | GemNetConfig:
    """Configuration of matscale's model."""
    return SCHNET[case, size] if case.startswith("schnet") else config_from_fairchem(GEMNET[case, size])


def fairchem(case: str, size: str, data: list[AtomicBatch], are_ties_ours: bool = True) -> Peer:
    """fairchem-core 1.10.0; its distances come from its own `get_pbc_distances`.

    `are_ties_ours`: its GemNet-OC chooses among neighbours at one distance as matscale's does, so that outputs can
    be equal.
    """
    standins.install()
    if case.startswith("schnet"):
        from fairchem.core.models.schnet import SchNetWrap

        c = SCHNET[case, size]
        widths = {"hidden_channels": c.hidden, "num_filters": c.filters, "num_gaussians": c.n_radial}
        model = SchNetWrap(num_interactions=c.n_layers, cutoff=c.cutoff, otf_graph=True, **widths)
    elif case == "gemnet-dT":
        from fairchem.core.models.gemnet.gemnet import GemNetT

        model = GemNetT(**GEMNET[case, size])
    else:
        from fairchem.core.models.gemnet_oc.gemnet_oc import GemNetOC

        model = GemNetOC(**GEMNET[case, size])
    return model, _of_fairchem(model, data, ties_as_ours if case == "gemnet-OC" and are_ties_ours else nullcontext)


@contextmanager
def ties_as_ours() -> Iterator[None]:
    """Context in which fairchem takes the first listed of neighbours at one distance, which torch.sort leaves open."""
    from fairchem.core.models.gemnet_oc import gemnet_oc

    sort, choose = torch.sort, gemnet_oc.get_max_neighbors_mask

    def rounded(*, atom_distance: Tensor, **options: Any) -> Any:
        return choose(atom_distance=atom_distance.mul(1e6).round(), **options)

    try:
        torch.sort, gemnet_oc.get_max_neighbors_mask = functools.partial(sort, stable=True), rounded
        yield
    finally:
        torch.sort, gemnet_oc.get_max_neighbors_mask = sort, choose


def _of_fairchem(model: Any, data: list[AtomicBatch], context: Callable[[], AbstractContextManager[None]]) -> Predict:
    from fairchem.core.common.utils import get_pbc_distances
    from fairchem.core.models.base import GraphData
    from torch_geometric.data import Batch, Data

    def generate_graph(batch: Any, **_: Any) -> Any:
        index, shift, neighbors = batch.ours
        out = get_pbc_distances(batch.pos, index, batch.cell, shift, neighbors, True, True)
        return GraphData(
            edge_index=out["edge_index"],
            edge_distance=out["distances"],
            edge_distance_vec=out["distance_vec"],
            cell_offsets=shift,
            offset_distances=out["offsets"],
            neighbors=neighbors,
            batch_full=batch.batch,
            atomic_numbers_full=batch.atomic_numbers,
            node_offset=0,
        )

    def converted(one: AtomicBatch) -> Any:
        members = [
            Data(pos=m.positions, atomic_numbers=m.atomic_numbers, natoms=m.n_atoms, num_nodes=m.n_atoms)
            for m in one.split()
        ]
        batch = Batch.from_data_list(members)
        batch.natoms, batch.cell = one.atoms_per_structure, one.cell
        batch.tags = torch.ones_like(one.atomic_numbers, dtype=torch.long)
        neighbors = torch.bincount(one.batch[one.edges()[1]], minlength=one.n_structures)
        batch.ours = torch.stack(one.edges()), one.edge_shift, neighbors
        return batch

    model.generate_graph = generate_graph
    batches = [converted(one) for one in data]

    def predict(k: int) -> dict[str, Tensor]:
        batches[k].pos = batches[k].pos.detach()
        with context():
            out = model(batches[k])
        return {"energy": out["energy"].flatten(), "forces": out["forces"]}

    return predict


def pyg(case: str, size: str, data: list[AtomicBatch]) -> Peer:
    """torch_geometric's SchNet; forces by autograd."""
    from torch_geometric.nn import SchNet

    c = SCHNET[case, size]
    edges: dict[str, Tensor] = {}

    def interaction_graph(positions: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        j, i = edges["index"]
        return edges["index"], (positions[j] - positions[i] + edges["offset"]).norm(dim=-1)

    model = SchNet(c.hidden, c.filters, c.n_layers, c.n_radial, c.cutoff, interaction_graph=interaction_graph)

    def predict(k: int) -> dict[str, Tensor]:
        edges["index"], edges["offset"] = torch.stack(data[k].edges()), offsets(data[k])
        positions = data[k].positions.detach().requires_grad_()
        energy = model(data[k].atomic_numbers, positions, data[k].batch)
        (slope,) = torch.autograd.grad(energy.sum(), positions, create_graph=True)
        return {"energy": energy.flatten(), "forces": -slope}

    return model, predict


def schnetpack(case: str, size: str, data: list[AtomicBatch]) -> Peer:
    """schnetpack 2.2.0, energy and forces."""
    import schnetpack as spk
    from schnetpack import properties as p
    from schnetpack.nn.activations import shifted_softplus

    c = SCHNET[case, size]
    model = spk.model.NeuralNetworkPotential(
        representation=spk.representation.SchNet(
            c.hidden,
            c.n_layers,
            radial_basis=spk.nn.GaussianRBF(c.n_radial, c.cutoff),
            cutoff_fn=spk.nn.CosineCutoff(c.cutoff),
            n_filters=c.filters,
        ),
        input_modules=[spk.atomistic.PairwiseDistances()],
        output_modules=[
            spk.atomistic.Atomwise(
                c.hidden, n_hidden=[c.hidden // 2], activation=shifted_softplus, output_key="energy"
            ),
            spk.atomistic.Forces(),
        ],
    )

    def predict(k: int) -> dict[str, Tensor]:
        one = data[k]
        j, i = one.edges()
        out = model(
            {
                p.Z: one.atomic_numbers,
                p.R: one.positions.detach().clone(),
                p.cell: one.cell,
                p.idx_i: i,
                p.idx_j: j,
                p.offsets: offsets(one),
                p.n_atoms: one.atoms_per_structure,
                p.idx_m: one.batch,
                p.pbc: one.pbc,
            }
        )
        return {"energy": out["energy"], "forces": out["forces"]}

    return model, predict


def offsets(data: AtomicBatch) -> Tensor:
    """[n_edges, 3] Å, Cartesian: the shift of each edge."""
    assert data.edge_shift is not None
    return data.edge_vec() - data.positions[data.edges()[0]] + data.positions[data.edges()[1]]


PYG = {"filter.0": "mlp.0", "filter.2": "mlp.2", "source": "conv.lin1", "target.0": "conv.lin2", "target.2": "lin"}
SPK = {
    "filter.0": "filter_network.0",
    "filter.2": "filter_network.1",
    "source": "in2f",
    "target.0": "f2out.0",
    "target.2": "f2out.1",
}


def schnet_name(ours: str, package: str) -> str:
    """Name of a parameter of matscale's SchNet in a package ("fairchem", "pyg", "schnetpack")."""
    module, _, kind = ours.rpartition(".")
    if module.startswith("interactions."):
        _, number, inner = module.split(".", 2)
        if package == "schnetpack":
            return f"representation.interactions.{number}.{SPK[inner]}.{kind}"
        return f"interactions.{number}.{PYG[inner]}.{kind}"
    if package == "schnetpack":
        names = {"readout.0": "output_modules.0.outnet.0", "readout.2": "output_modules.0.outnet.1"}
        return f"{names.get(module, f'representation.{module}')}.{kind}"
    return f"{({'readout.0': 'lin1', 'readout.2': 'lin2'}).get(module, module)}.{kind}"
