"""The transformer encoder: what its two input forms know, its attention, its published sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from matscale.core.config import Config
from matscale.core.contract import structures
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.errors import ConfigError
from matscale.core.flops import measure_step_flops
from matscale.core.model.architecture import Architecture, DatasetInfo, count_parameters
from matscale.core.model.attention import attention_kept
from matscale.core.model.layers.padding import Padding
from matscale.plugins.transformer import register_architectures as register
from matscale.plugins.transformer.encoder import EncoderLayer
from matscale.plugins.transformer.plain import SIZES, Transformer, TransformerConfig, atom_number_encoding, build

COUNTS = [17_770, 155_146, 205_130, 432_810, 942_730, 2_509_386, 2_954_250, 5_200_010, 9_309_514]


@pytest.fixture
def architecture() -> Architecture:
    return register()[0]


@pytest.fixture
def batch() -> AtomicBatch:
    return collate([structures.crystal(), structures.metal(), structures.slab()], dtype=torch.float64)


def small(**options: object) -> TransformerConfig:
    return TransformerConfig.parse({"width": 16, "n_heads": 2, "n_layers": 2, "feedforward": 32, **options})


def model_of(config: Config) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(config).double().eval()
    for head in (model.heads.energy, model.heads.forces, model.heads.stress):
        torch.nn.init.normal_(head[-1].weight)  # off their start near zero
    return model


@pytest.mark.parametrize(("name", "n_params"), list(zip(SIZES, COUNTS)))
def test_published_shapes_have_the_recomputed_parameter_counts(name: str, n_params: int) -> None:
    with torch.device("meta"):
        assert count_parameters(build(SIZES[name], DatasetInfo.any()))["total"] == n_params


def test_claims_depend_on_how_positions_enter(architecture: Architecture) -> None:
    assert architecture.claims_of(small(inputs="summed")) == frozenset()
    assert architecture.claims_of(small(inputs="concatenated")) == {"permutation"}


@pytest.mark.parametrize(("inputs", "depends"), [("summed", True), ("concatenated", False)])
def test_only_summed_inputs_depend_on_the_order_of_the_atoms(inputs: str, depends: bool) -> None:
    model = model_of(small(inputs=inputs))
    crystal = structures.crystal()
    order = [2, 0, 3, 1]
    renumbered = structures.structure(crystal.atomic_numbers[order], crystal.positions[order], crystal.cell)
    a, b = (model(collate([s], dtype=torch.float64)).energy for s in (crystal, renumbered))
    assert bool((a - b).abs() > 1e-3 * a.abs()) is depends


def test_padding_is_no_pair_of_attention(batch: AtomicBatch) -> None:
    with attention_kept() as layers:
        model_of(small())(batch)
    assert len(layers) == 2
    for layer in layers:
        counts = batch.atoms_per_structure
        assert layer.weights.shape == (2, int((counts**2).sum()))
        assert torch.equal(batch.batch[layer.query], batch.batch[layer.key])
        single = layer.weights[:, batch.batch[layer.query] == 1]  # the cell with one atom
        torch.testing.assert_close(single, torch.ones(2, 1).double())
        assert layer.weights.std() > 0


def test_weights_that_are_handed_out_give_the_output_of_the_layer(batch: AtomicBatch) -> None:
    model, inputs, outputs = model_of(small()), [], []
    attend = EncoderLayer._attend

    def heard(layer: EncoderLayer, x: torch.Tensor, padding: Padding) -> torch.Tensor:
        inputs.append(layer._queries_keys_values(x, padding)[2])
        outputs.append(attend(layer, x, padding))
        return outputs[-1]

    with pytest.MonkeyPatch.context() as patch, attention_kept() as layers:
        patch.setattr(EncoderLayer, "_attend", heard)
        model(batch)
    assert len(layers) == len(outputs) == 2
    for layer, padded, expected in zip(layers, inputs, outputs):
        values = Padding.of(batch).flat(padded.transpose(1, 2))[layer.key]  # [n_pairs, n_heads, D_h]
        mixed = torch.zeros(batch.n_atoms, *values.shape[1:]).double()
        mixed.index_add_(0, layer.query, layer.weights.T[..., None] * values)
        torch.testing.assert_close(mixed.flatten(1), expected, rtol=0, atol=1e-10)


def test_predictions_are_the_same_to_the_last_bit_while_weights_are_handed_out(batch: AtomicBatch) -> None:
    model = model_of(small())
    plain = model(batch)
    with attention_kept():
        shown = model(batch)
    for name in ("energy", "forces", "stress"):
        assert torch.equal(getattr(shown, name), getattr(plain, name))


def test_atoms_of_other_structures_are_not_attended_to(batch: AtomicBatch) -> None:
    model = model_of(small())
    before = model(batch).energy
    elsewhere = torch.zeros_like(batch.positions)
    elsewhere[batch.batch == 2] = 1.0
    after = model(batch.with_geometry(batch.positions + elsewhere, batch.cell)).energy
    torch.testing.assert_close(after[:2], before[:2], rtol=1e-13, atol=0)
    assert (after[2] - before[2]).abs() > 1e-6


def test_dropout_acts_in_training_only(batch: AtomicBatch) -> None:
    model = model_of(small(dropout=0.5))
    assert torch.equal(model(batch).energy, model(batch).energy)
    model.train()
    assert not torch.equal(model(batch).energy, model(batch).energy)


@pytest.mark.parametrize("width", [6, 7])
def test_atom_numbers_are_encoded_apart_and_within_one(width: int) -> None:
    code = atom_number_encoding(torch.arange(300), width)
    assert code.shape == (300, width)
    assert code.abs().max() <= 1
    distances = torch.cdist(code, code) + torch.eye(300)
    assert distances.min() > 1e-3


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_flops_of_attention_are_counted_with_and_without_dropout(architecture: Architecture, dropout: float) -> None:
    """Without dropout the CPU takes a fused kernel that torch's counter does not know."""
    crystals = collate([structures.supercell(structures.crystal(seed), (2, 2, 2)) for seed in range(2)])
    config = small(dropout=dropout, feedforward=4)
    stated = architecture.step_flops(config, crystals.shape)
    assert measure_step_flops(architecture, config, crystals) == pytest.approx(stated, rel=0.01)
    no_attention = architecture.step_flops(config, replace(crystals.shape, sum_atoms_squared=0))
    assert no_attention < 0.9 * stated


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"width = 16 must be a multiple of n_heads = 3"):
        small(n_heads=3)


def test_concatenated_inputs_need_room_for_the_element() -> None:
    with pytest.raises(ConfigError, match="width = 3"):
        small(inputs="concatenated", width=3, n_heads=1)
