r"""FLOPs of a training step, product by product. docs/flops.md has the definition.

A product counts once in the forward. It counts again in the backward and, with forces by derivative, in the backward of
the backward, as often as its factors have gradients: `TIMES` has the totals for each kind of product, `tally` a row for
each product of `model`. The numbers of edges, angles and quadruplets are counted in a batch, or estimated without one
(`counts`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from matscale.plugin import AtomicBatch, BatchShape, Graph
from matscale.plugins.gemnet.config import GemNetConfig, graph
from matscale.plugins.gemnet.links import Links, links_of, symmetric, within

TIMES = {
    "direct": {
        "weights": 3, "elements": 3, "last": 3, "basis": 2, "table": 2, "features": 3, "first": 3, "geometry": 1,
    },
    "gradient": {
        "weights": 6, "elements": 3, "last": 5, "basis": 6, "table": 9, "features": 9, "first": 6, "geometry": 9,
    },
}  # fmt: skip
"""Number of times that a product counts in a step, by its kind.

The kinds are, in this order: features × weights; features of elements alone × weights; the last layer of the energy;
Gaussians × weights; features × polynomials of angles; features × features of the geometry with weights; the same with
features of elements alone; geometry × geometry.
"""


@dataclass(frozen=True)
class Counts:
    """Numbers of atoms, edges, angles and dihedrals in a batch."""

    atoms: float
    edges: float
    angles: float = 0
    """Pairs of edges at an atom, including pairs of an edge with itself."""
    pairs: float = 0
    pair_angles: float = 0
    far: float = 0
    middle: float = 0
    ins: float = 0
    """Pairs of a middle edge and an edge at its far end."""
    outs: float = 0
    """Pairs of a middle edge and an edge at its near end."""
    dihedrals: float = 0


def step_flops(config: GemNetConfig, shape: BatchShape) -> float:
    """FLOPs of forward, loss and backward."""
    times, n = TIMES[config.forces], counts(config, shape)
    products: float = sum(times[kind] * getattr(n, per) * each for per, kind, each in tally(config))
    return 2.0 * products


# Numbers --------------------------------------------------------------------------------------------------------------


def counts(config: GemNetConfig, shape: BatchShape) -> Counts:
    """Count edges, angles and dihedrals in the batch of `shape`, or estimate them from the totals in `shape`."""
    return _estimated(config, shape) if shape.batch is None else _counted(config, shape.batch)


@torch.no_grad()
def _counted(config: GemNetConfig, batch: AtomicBatch) -> Counts:
    links = links_of(batch)
    edges, _ = symmetric(within(links, config.rule("edges")), config.image_kept)
    d = edges.degree
    found: dict[str, Tensor | int] = {"atoms": batch.n_atoms, "edges": edges.n, "angles": (d * d).sum()}
    if config.atom_edge or config.edge_atom:
        pairs = within(links, config.rule("atom_edge"))
        found |= {"pairs": pairs.n, "pair_angles": (d * pairs.degree).sum()}
    if config.atom_atom:
        found["far"] = within(links, config.rule("atom_atom")).n
    if config.quadruplets:
        found |= _quadruplets(within(links, config.rule("quadruplets")), d)
    return Counts(**{name: int(value) for name, value in found.items()})


def _quadruplets(middle: Links, d: Tensor) -> dict[str, Tensor | int]:
    """Count quadruplets. A middle edge without another edge at one of its ends has none."""
    near, far = d[middle.target], d[middle.source]
    both = (near > 0) & (far > 0)
    outs, ins, dihedrals = near[both].sum(), far[both].sum(), (near * far).sum()
    return {"middle": middle.n, "outs": outs, "ins": ins, "dihedrals": dihedrals}


def _estimated(config: GemNetConfig, shape: BatchShape) -> Counts:
    n, whole = max(shape.n_atoms, 1), graph(config)
    d = _share(shape, whole, config.rule("edges"))
    spread = (shape.n_triplets + shape.n_edges) * n / max(shape.n_edges, 1) ** 2  # mean of squares over square of mean
    found = {"atoms": n, "edges": n * d, "angles": n * d * d * spread}
    if config.atom_edge or config.edge_atom:
        k = _share(shape, whole, config.rule("atom_edge"))
        found |= {"pairs": n * k, "pair_angles": n * k * d * spread}
    if config.atom_atom:
        found["far"] = n * _share(shape, whole, config.rule("atom_atom"))
    if config.quadruplets:
        q = _share(shape, whole, config.rule("quadruplets"))
        found |= {"middle": n * q, "outs": n * q * d, "ins": n * q * d, "dihedrals": n * q * d * d * spread}
    return Counts(**found)


def _share(shape: BatchShape, whole: Graph, rule: Graph) -> float:
    """Mean number of neighbours that `rule` keeps among those of the graph `whole`, in proportion to the volume."""
    degree = shape.n_edges / max(shape.n_atoms, 1) * (rule.cutoff / whole.cutoff) ** 3
    return min(degree, rule.n_neighbors) if rule.n_neighbors else degree


# Products -------------------------------------------------------------------------------------------------------------


Row = tuple[str, str, int]
"""Field of `Counts`, kind of product, and multiply-adds of one forward pass for each item that the field counts."""


def tally(config: GemNetConfig) -> Iterator[Row]:
    """List every product of a forward pass, stage by stage."""
    c = config
    yield from _bases(c)
    yield "atoms", "elements", 2 * c.atom_channels * c.edge_channels
    yield "edges", "basis", c.n_radial * c.edge_channels
    for number in range(c.n_layers):
        yield from _messages(c, number)
        yield from _update(c, number)
    for _ in range(c.n_layers + 1):
        yield from _output(c)
    yield from _readout(c, "atoms", c.atom_channels, 1)
    if c.forces == "direct":
        yield from _readout(c, "edges", c.edge_channels, 3 if c.predicts_stress else 1)


def _bases(c: GemNetConfig) -> Iterator[Row]:
    radial, circular = c.n_radial * c.radial_embedding, c.n_radial * c.circular_embedding * c.n_spherical
    yield "edges", "basis", 3 * radial + circular
    yield "angles", "geometry", 3
    if c.atom_edge:
        yield "pairs", "basis", radial
        yield "edges", "basis", circular
        yield "pair_angles", "geometry", 3
    if c.edge_atom:
        yield "edges", "basis", radial
        yield "pairs", "basis", circular
        yield "pair_angles", "geometry", 3
        yield "pair_angles", "table", c.n_spherical * c.circular_embedding
    if c.atom_atom:
        yield "far", "basis", radial
    if c.quadruplets:
        yield "edges", "basis", radial + c.n_radial * c.spherical_embedding * c.n_spherical**2
        yield "middle", "basis", circular
        yield "ins", "table", c.circular_embedding * c.n_spherical
        yield "dihedrals", "geometry", 3


def _residual(width: int, n: int) -> int:
    return 2 * n * width * width


def _network(c: GemNetConfig, n_in: int, width: int, n: int) -> int:
    return (n_in * width if c.always_project or n_in != width else 0) + _residual(width, n)


def _messages(c: GemNetConfig, number: int) -> Iterator[Row]:
    atom, edge, n_in, n_out = c.atom_channels, c.edge_channels, c.triplet_in, c.triplet_out
    i, n_l = c.circular_embedding, c.n_spherical
    of_atoms = "weights" if number else "elements"
    yield "edges", "weights", edge * edge  # skip
    yield "edges", "weights", edge * edge + c.radial_embedding * edge + edge * n_in
    yield "angles", "table", n_l * n_in
    yield "edges", "features", i * n_l * n_in
    yield "edges", "weights", i * n_in * n_out + 2 * n_out * edge
    if c.atom_edge:
        yield "atoms", of_atoms, atom * atom
        yield "pairs", "weights", c.radial_embedding * atom + atom * n_in
        yield "pair_angles", "table", n_l * n_in
        yield "edges", "features", i * n_l * n_in
        yield "edges", "weights", i * n_in * n_out + 2 * n_out * edge
    if c.edge_atom:
        yield "edges", "weights", edge * edge + c.radial_embedding * edge + edge * n_in
        yield "edges", "features", i * n_in
        yield "atoms", "weights", i * n_in * n_out + n_out * atom
    if c.atom_atom:
        yield "atoms", of_atoms, atom * c.pair_in
        yield "far", "features" if number else "first", c.radial_embedding * c.pair_in
        yield "atoms", "weights", c.radial_embedding * c.pair_in * c.pair_out + c.pair_out * atom
    if c.quadruplets:
        yield from _quadruplet(c)


def _quadruplet(c: GemNetConfig) -> Iterator[Row]:
    edge, n_in, n_out, n_l = c.edge_channels, c.quadruplet_in, c.quadruplet_out, c.n_spherical
    yield "edges", "weights", edge * edge + c.radial_embedding * edge + edge * n_in
    yield "ins", "weights", c.circular_embedding * n_in
    yield "dihedrals", "table", n_l * n_in
    yield "outs", "table", n_l * n_l * n_in
    yield "edges", "features", c.spherical_embedding * n_l**2 * n_in
    yield "edges", "weights", c.spherical_embedding * n_in * n_out + 2 * n_out * edge


def _update(c: GemNetConfig, number: int) -> Iterator[Row]:
    atom, edge = c.atom_channels, c.edge_channels
    is_of_elements = number == 0 and not (c.edge_atom or c.atom_atom)
    yield "edges", "weights", _residual(edge, c.n_before_skip + c.n_after_skip + c.n_concat)
    yield "atoms", "elements" if is_of_elements else "weights", _residual(atom, c.n_atom_before)
    yield "edges", "weights", c.radial_embedding * edge + edge * edge
    yield "atoms", "weights", _network(c, edge, atom, c.n_atom) + 2 * atom * edge


def _output(c: GemNetConfig) -> Iterator[Row]:
    atom, edge = c.atom_channels, c.edge_channels
    yield "edges", "weights", c.radial_embedding * edge
    yield "atoms", "weights", _network(c, edge, atom, c.n_atom)
    if c.n_output_after:
        yield "atoms", "weights", _network(c, atom, atom, c.n_output_after)
    if c.forces == "direct":
        yield "edges", "weights", _network(c, edge, edge, c.n_atom) + c.radial_embedding * edge


def _readout(c: GemNetConfig, per: str, width: int, n_out: int) -> Iterator[Row]:
    stages = c.n_layers + 1
    if c.n_joint_layers is None:
        yield per, "last", stages * width * n_out
        return
    yield per, "weights", stages * width * width + _residual(width, c.n_joint_layers)
    yield per, "last", width * n_out
