"""Sums over triplets and quadruplets against loops over lists of them, periodic images included."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from matscale.core.contract.structures import crystal, metal, molecule
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.graph import Graph
from matscale.core.data.neighbors import collate
from matscale.plugins.gemnet import angles, dihedrals
from matscale.plugins.gemnet.angles import Angles, Ends, legendre, neighbor_products, pieces_of
from matscale.plugins.gemnet.dihedrals import Dihedrals
from matscale.plugins.gemnet.geometry import by_rank
from matscale.plugins.gemnet.links import Links, links_of, rank_by, reordered, span_of, symmetric, within

N = 3
"""Polynomials of an angle."""


@pytest.fixture
def links() -> Links:
    structures = [crystal(), metal(), molecule()]
    return links_of(collate(structures, Graph.radius(3.4), torch.float64))


@pytest.fixture
def two(links: Links) -> tuple[Links, Links]:
    """Long and short edges of the same atoms, both sorted by target in one order."""
    short = within(links, Graph.radius(2.9))
    rank = rank_by(links.degree, short.degree)
    return links.sorted_by(rank), short.sorted_by(rank)


def ends(edges: Links, rank: Tensor, span: int) -> Ends:
    return Ends(edges.unit, edges.image(span), by_rank(edges.degree, rank))


def angles_between(ins: Links, outs: Links) -> Angles:
    rank, span = rank_by(*(x.degree for x in sorted((ins, outs), key=lambda x: -x.n))), span_of(ins, outs)
    return Angles(ends(ins, rank, span), ends(outs, rank, span), N)


def neighbor(edges: Links, e: int) -> tuple[int, ...]:
    """Which image of which atom."""
    return (int(edges.source[e]), *edges.shift[e].tolist())


def triplets(ins: Links, outs: Links) -> list[tuple[int, int]]:
    """(in, out) of all pairs of edges that meet, but for two to one image."""
    return [
        (b, c)
        for c in range(outs.n)
        for b in range(ins.n)
        if ins.target[b] == outs.target[c] and neighbor(ins, b) != neighbor(outs, c)
    ]


def y(z: Tensor) -> Tensor:
    return torch.stack([z**0, z, (3 * z**2 - 1) / 2]) * (torch.tensor([1.0, 3, 5]) / (4 * math.pi)).sqrt()


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "in pieces"])
@pytest.mark.parametrize("mixed", [False, True], ids=["one graph", "two graphs"])
def test_sums_over_angles_are_those_of_a_list_of_triplets(two, mixed, kept, monkeypatch) -> None:
    if not kept:
        monkeypatch.setattr(angles, "KEPT", 0)
        monkeypatch.setattr(angles, "AT_ONCE", 50)
    ins, outs = two if mixed else (two[0], two[0])
    x = torch.randn(ins.n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(outs.n, N, 2, dtype=torch.float64)
    found = triplets(ins, outs)
    for b, c in found:
        expected[c] += y(ins.unit[b] @ outs.unit[c])[:, None] * x[b]
    assert len(found) > 200
    assert any(ins.source[b] == outs.source[c] for b, c in found)  # two images of one atom
    both_ways = angles_between(ins, outs)
    assert both_ways.are_kept == kept
    assert_close(both_ways.sums(x), expected)


def test_a_double_sum_over_two_kinds_of_edges_is_that_of_a_list_of_triplets(two) -> None:
    ins, outs = two
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(outs.n, 4, N, dtype=torch.float64, generator=generator)
    expected = torch.zeros(ins.n, 4, dtype=torch.float64)
    for b, c in triplets(ins, outs):
        expected[b] += weights[c] @ y(ins.unit[b] @ outs.unit[c])
    assert_close(angles_between(ins, outs).contracted(weights), expected)


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "in pieces"])
def test_sums_over_dihedrals_are_those_of_a_list_of_quadruplets(two, kept, monkeypatch) -> None:
    if not kept:
        monkeypatch.setattr(dihedrals, "KEPT", 0)
        monkeypatch.setattr(dihedrals, "AT_ONCE", 100)
    middle, edges = within(two[1], Graph.nearest(2.9, 3)), within(two[1], Graph.radius(2.7))
    edges = edges.sorted_by(rank_by(edges.degree))
    quadruplets = Dihedrals(edges, middle, span_of(edges, middle), N)
    assert quadruplets.are_kept == kept
    x = torch.randn(quadruplets.ins.shape[0], 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    place = {pair: k for k, pair in enumerate(zip(quadruplets.ins_middle.tolist(), quadruplets.ins.tolist()))}
    expected, n = torch.zeros(edges.n, N, N, 2, dtype=torch.float64), 0
    for q in range(middle.n):
        a, b = int(middle.target[q]), neighbor(middle, q)
        for c in (e for e in range(edges.n) if edges.target[e] == a and neighbor(edges, e) != b):
            for d in (e for e in range(edges.n) if edges.target[e] == b[0]):
                image = (int(edges.source[d]), *(edges.shift[d] + middle.shift[q]).tolist())
                if image in (neighbor(edges, c), (a, 0, 0, 0)):
                    continue
                p = torch.linalg.cross(edges.unit[c], middle.unit[q])
                s = torch.linalg.cross(edges.unit[d], middle.unit[q])
                if min(p.norm(), s.norm()) > 1e-6:  # else no dihedral: its cosine is zero
                    cosine = p @ s / (p.norm() * s.norm())
                else:
                    cosine = torch.zeros((), dtype=torch.float64)
                flat = y(edges.unit[c] @ middle.unit[q])
                expected[c] += flat[:, None, None] * y(cosine)[:, None] * x[place[q, d]]
                n += 1
    assert n > 200
    assert_close(quadruplets.sums(x), expected.flatten(1, 2), rtol=1e-6, atol=1e-6)


def test_gradients_are_the_same_where_polynomials_are_not_kept(two, monkeypatch) -> None:
    def gradient() -> Tensor:
        weights = torch.ones(two[0].n, 2, dtype=torch.float64, requires_grad=True)
        vec = two[0].vec.detach().requires_grad_()
        edges = Links(two[0].source, two[0].target, two[0].shift, vec, two[0].n_atoms)
        out = angles_between(edges, edges).sums(weights * vec[:, :2]).square().sum()
        (first,) = torch.autograd.grad(out, vec, create_graph=True)
        (second,) = torch.autograd.grad(first.square().sum(), weights)
        return second

    kept = gradient()
    monkeypatch.setattr(angles, "KEPT", 0)
    monkeypatch.setattr(angles, "AT_ONCE", 100)
    assert_close(gradient(), kept)


def test_products_with_neighbors_are_sums_over_the_edges_of_an_atom() -> None:
    degree = torch.tensor([2, 2, 0, 1])
    w, x = torch.arange(10.0).view(5, 2), torch.arange(15.0).view(5, 3).square()
    expected = torch.zeros(4, 2, 3)
    for edge, atom in enumerate([0, 0, 1, 1, 3]):
        expected[atom] += w[edge][:, None] * x[edge]
    assert_close(neighbor_products(w, x, degree), expected)


def test_atoms_are_cut_into_pieces_of_bounded_size() -> None:
    pieces = pieces_of(torch.tensor([3, 3, 3, 3, 3, 5, 0, 4]), torch.tensor([2, 2, 2, 2, 2, 5, 0, 0]), 12)
    assert pieces == [(2, 3, 2), (2, 3, 2), (1, 3, 2), (1, 5, 5), (1, 4, 0)]


def test_legendre_polynomials_are_those_of_scipy() -> None:
    from scipy.special import eval_legendre

    z = torch.linspace(-1, 1, 21, dtype=torch.float64)
    for degree, found in enumerate(legendre(z, 9).T):
        expected = math.sqrt((2 * degree + 1) / (4 * math.pi)) * eval_legendre(degree, z.numpy())
        assert_close(found, torch.from_numpy(expected))
    assert legendre(z, 1).shape == (21, 1)


# Graphs ---------------------------------------------------------------------------------------------------------------


def test_of_each_pair_of_edges_one_is_the_reverse_of_the_other(links) -> None:
    both, swap = symmetric(within(links, Graph.nearest(3.4, 5)))
    both, swap = reordered(both, swap, rank_by(both.degree))
    assert_close(both.vec[swap], -both.vec)
    assert torch.equal(both.source[swap], both.target)
    assert torch.equal(both.shift[swap], -both.shift)
    seen = {(int(t), *neighbor(both, e)) for e, t in enumerate(both.target)}
    assert len(seen) == both.n > 20
    assert (both.source == both.target).any()  # an atom and its own image


@pytest.mark.parametrize(("image_kept", "kept"), [("below", {-1, 1}), ("above", set())])
def test_of_two_opposite_images_of_an_atom_the_published_models_keep_different_ones(image_kept, kept) -> None:
    """The limit has let the atom see its image one cell down, and not that one cell up at the same distance."""
    shift = torch.tensor([[0, 0, -1]])
    one = Links(torch.zeros(1).long(), torch.zeros(1).long(), shift, 2.5 * shift.double(), n_atoms=1)
    both, _ = symmetric(one, image_kept)
    assert set(both.shift[:, 2].tolist()) == kept


def test_a_radius_graph_is_symmetric_already(links) -> None:
    both, _ = symmetric(links)
    edges = [sorted((int(x.target[e]), *neighbor(x, e)) for e in range(x.n)) for x in (both, links)]
    assert edges[0] == edges[1]


@pytest.mark.parametrize(
    "rule", [Graph.radius(3.0), Graph.nearest(3.3, 4), Graph.nearest(3.4, 20)], ids=lambda r: r.key
)
def test_a_graph_chosen_from_a_larger_one_is_the_one_that_the_core_finds(links, rule) -> None:
    def edges(x: Links) -> list[tuple[int, ...]]:
        return sorted((int(x.target[e]), *neighbor(x, e)) for e in range(x.n))

    data: AtomicBatch = collate([crystal(), metal(), molecule()], rule, torch.float64)
    assert edges(within(links, rule)) == edges(links_of(data))


def test_numbers_of_images_tell_all_images_apart(links) -> None:
    span = span_of(links)
    images = {(int(links.target[e]), *neighbor(links, e)) for e in range(links.n)}
    assert len(images) == links.n == len(torch.unique(torch.stack([links.target, links.image(span)]), dim=1).T)
