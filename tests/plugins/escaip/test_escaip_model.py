"""What EScAIP is and is not: its layout, its attention, its readouts, its limits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from e3nn import o3
from torch.testing import assert_close

from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import Structure
from matscale.core.errors import ConfigError, DataError
from matscale.core.model.architecture import DatasetInfo, count_parameters
from matscale.core.model.attention import attention_kept
from matscale.core.model.reference_path import reference_path
from matscale.plugins.escaip import SIZES, EScAIP, EScAIPConfig, build, graph
from matscale.plugins.escaip.layout import soft_rank

SMALL: dict[str, Any] = {
    "hidden": 8,
    "n_layers": 2,
    "n_heads": 2,
    "degree_channels": [1, 1, 0, 1, 1],
    "atom_channels": 4,
    "order_channels": 3,
    "n_order": 6,
    "distance_channels": 5,
    "n_radial": 12,
    "n_neighbors": 10,
    "max_neighbors": 24,
}


def oxide() -> Structure:
    """A rattled perovskite in a triclinic cell."""
    rng = np.random.default_rng(3)
    cell = 3.9 * (np.eye(3) + 0.03 * rng.standard_normal((3, 3)))
    sites = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Structure(
        np.array([38, 22, 8, 8, 8]), sites @ cell + 0.05 * rng.standard_normal((5, 3)), cell, np.array([True] * 3)
    )


def made(**options: Any) -> EScAIP:
    """A float64 model whose weights have all left their initial values."""
    torch.manual_seed(0)
    model = EScAIP(EScAIPConfig(**{**SMALL, **options})).double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5
    return model


def batch_for(model: EScAIP, *structures: Structure) -> AtomicBatch:
    return collate(structures or [oxide()], graph(model.config), torch.float64)


@pytest.mark.parametrize(
    ("name", "total"), [("H512L10", 88_609_408), ("H640L10", 85_148_160), ("H1024L8", 271_605_120)]
)
def test_published_sizes_have_the_published_parameters(name: str, total: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build(SIZES[name], DatasetInfo.any()))["total"] == total


def test_the_backbone_of_the_first_size_has_the_published_parameters() -> None:
    with torch.device("meta"):
        model = EScAIP(SIZES["H512L10"])
    heads = sum(p.numel() for head in (model.energy, model.forces) for p in head.parameters())
    assert sum(p.numel() for p in model.parameters()) - heads == 85_454_976


def test_a_rank_counts_who_is_nearer() -> None:
    others = torch.tensor([[0.0, 1.0, 2.0, 2.0, 5.0]]).expand(3, 5)
    ranks = soft_rank(torch.tensor([1.0, 2.0, 3.4]), others, width=0.2)
    assert_close(ranks, torch.tensor([1.5, 3.0, 4.0]))  # whoever is as far counts half


def test_a_neighbour_is_kept_in_both_directions_or_in_none() -> None:
    layout = made().make_layout(batch_for(made()))
    rows, slots = layout.is_used.nonzero(as_tuple=True)
    kept = {
        (int(i), int(layout.neighbors[i, s]), *(layout.direction[i, s] * 1e6).round().int().tolist())
        for i, s in zip(rows, slots)
    }
    assert len(kept) == len(rows) > 5 * 6
    assert {(j, i, -x, -y, -z) for i, j, x, y, z in kept} == kept


def test_a_wider_layout_changes_no_output() -> None:
    narrow, wide = made(), made(max_neighbors=40)
    wide.load_state_dict(narrow.state_dict(), strict=True)
    batch = batch_for(narrow)
    for name in ("energy", "forces", "stress"):
        assert_close(getattr(wide(batch), name), getattr(narrow(batch), name), rtol=1e-11, atol=1e-12)


def test_slots_that_no_atom_of_a_batch_uses_are_left_out_and_change_nothing() -> None:
    model = made(max_neighbors=40)
    batch, widths = batch_for(model), []
    model.input.register_forward_hook(lambda module, given, found: widths.append(found[1].shape[1]))
    short = model(batch)
    with reference_path():
        full = model(batch)
    assert widths[0] == int(model.make_layout(batch).is_used.sum(1).max()) < widths[1] == 40
    for name in ("energy", "forces", "stress"):
        assert_close(getattr(short, name), getattr(full, name), rtol=1e-11, atol=1e-12)


def test_more_neighbours_than_slots_name_the_atom_and_the_setting() -> None:
    model = made()
    model.config = model.config.model_copy(update={"max_neighbors": 10})
    model.make_layout.config = model.config
    alone = Structure(np.array([8]), np.zeros((1, 3)), np.zeros((3, 3)), np.zeros(3, dtype=bool))
    with pytest.raises(DataError, match=r"atom \d of structure 1 of the batch .* Set max_neighbors to \d\d or more"):
        model(batch_for(model, alone, oxide()))


def test_attention_is_that_with_spherical_harmonics() -> None:
    """The paper multiplies queries and keys by harmonics of the directions; here the angle comes in afterwards."""
    model = made()
    attention, layout = model.blocks[0].attention, model.make_layout(batch_for(model))
    q, k = torch.randn(2, 5, 2, 24, 4, dtype=torch.float64)
    harmonics = o3.spherical_harmonics([0, 1, 2, 3, 4], layout.direction, normalize=False, normalization="norm")
    of_degree = harmonics.split([1, 3, 5, 7, 9], dim=-1)
    waves = torch.cat([of_degree[degree] for degree in (0, 1, 3, 4)], dim=-1)[:, None]  # one channel each
    repeats = torch.tensor([1, 3, 7, 9])
    expanded = [x.repeat_interleave(repeats, dim=-1) * waves for x in (q, k)]
    logits = expanded[0] @ expanded[1].transpose(-1, -2) / 24**0.5 + layout.log_weight[:, None, None]
    ours, theirs = attention._weights(q, k, layout), logits.softmax(-1)
    used = layout.is_used[:, None, :, None].expand_as(ours)  # rows of padding are read by nobody
    assert_close(ours[used], theirs[used], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("forces", ["direct", "gradient"])
def test_weights_that_are_handed_out_give_the_output_of_an_atom(forces: str) -> None:
    model, given, found = made(forces=forces), [], []
    for block in model.blocks:
        block.attention.value.register_forward_hook(lambda module, into, out: given.append(out))
        block.attention.out.register_forward_pre_hook(lambda module, into: found.append(into[0][:, 0]))
    batch = batch_for(model)
    plain = model(batch).energy
    given.clear(), found.clear()
    with attention_kept() as layers:
        assert torch.equal(model(batch).energy, plain)
    is_used = model.make_layout(batch, is_full=False).is_used
    assert len(layers) == len(found) == 2
    for layer, values, expected in zip(layers, given, found):
        of_pairs = values[is_used].unflatten(-1, (2, -1))  # [n_pairs, n_heads, D]
        mixed = torch.zeros(5, *of_pairs.shape[1:]).double()
        mixed.index_add_(0, layer.query, layer.weights.T[..., None] * of_pairs)
        assert_close(mixed.flatten(1), expected, rtol=0, atol=1e-10)


def test_weights_are_handed_out_with_the_vector_to_the_image_of_the_neighbour() -> None:
    model = made()
    batch = batch_for(model)
    with attention_kept() as layers:
        model(batch)
    [layer, _] = layers
    j, i = batch.edges()
    edges = torch.cat([torch.stack([i, j], 1).double(), batch.edge_vec()], 1)
    pairs = torch.cat([torch.stack([layer.query, layer.key], 1).double(), layer.vector], 1)
    is_self = layer.vector.norm(dim=1) == 0
    assert torch.equal(layer.query[is_self], torch.arange(5))
    assert torch.equal(layer.key[is_self], torch.arange(5))
    apart = (pairs[~is_self, None] - edges).abs().amax(-1)
    assert apart.amin(1).max() < 1e-9


def test_the_order_of_an_atom_is_the_length_of_its_mean_harmonics() -> None:
    model = made()
    layout = model.make_layout(batch_for(model))
    harmonics = o3.spherical_harmonics(list(range(6)), layout.direction, normalize=False, normalization="norm")
    mean = (harmonics * layout.is_used[:, :, None]).sum(1) / layout.is_used.sum(1, keepdim=True)
    lengths = [part.square().sum(-1).clamp(min=1e-6).sqrt() for part in mean.split([1, 3, 5, 7, 9, 11], dim=-1)]
    assert_close(layout.order, torch.stack(lengths, dim=-1), rtol=1e-9, atol=1e-10)


def test_every_stage_is_read_out_once() -> None:
    model = made()
    calls: list[str] = []
    for readout in (model.atom_readout, model.edge_readout):
        for feed_forward in readout.feed_forwards:
            feed_forward.register_forward_hook(lambda *_: calls.append("read"))
    model(batch_for(model))
    assert len(calls) == 2 * (model.config.n_layers + 1)


def turned(structure: Structure) -> tuple[Structure, torch.Tensor]:
    matrix, _ = np.linalg.qr(np.random.default_rng(5).standard_normal((3, 3)))
    matrix *= np.linalg.det(matrix)
    moved = replace(structure, positions=structure.positions @ matrix.T, cell=structure.cell @ matrix.T)
    return moved, torch.from_numpy(matrix)


def test_direct_forces_do_not_turn_with_the_structure_but_energy_and_stress_do() -> None:
    """Why direct models do not claim rotation."""
    model = made()
    other, m = turned(oxide())
    here, there = model(batch_for(model)), model(batch_for(model, other))
    assert_close(there.energy, here.energy, rtol=1e-9, atol=1e-9)
    assert_close(there.stress, m @ here.stress @ m.T, rtol=1e-8, atol=1e-9)
    assert (there.forces - here.forces @ m.T).abs().max() > 0.01 * here.forces.abs().max()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hidden": 9}, "hidden = 9 must be a multiple of n_heads = 2"),
        ({"degree_channels": [1, 1]}, r"degree_channels = \[1, 1\] must be counts that sum to hidden / n_heads = 4"),
        ({"n_neighbors": 30}, "n_neighbors = 30 exceeds max_neighbors = 24"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        EScAIPConfig.parse({**SMALL, **options})


def test_channels_are_shared_out_as_published() -> None:
    assert EScAIPConfig(hidden=512, n_heads=8).channels_by_degree == (20, 10, 4, 10, 20)
    assert sum(EScAIPConfig(hidden=7, n_heads=1).channels_by_degree) == 7


def test_an_element_without_a_row_in_the_embedding_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(ConfigError, match=r"element 118.*max_atomic_number = 109"):
        build(SIZES["H512L10"], DatasetInfo(elements=(1, 118)))
