"""From features of atoms to energy, forces and stress."""

from __future__ import annotations

import numpy as np
import torch

from matscale.core.contract import structures
from matscale.core.data.neighbors import collate
from matscale.core.data.structure import full_to_voigt, voigt_to_full
from matscale.core.model.layers.heads import (
    DirectHeads,
    head_widths,
    mean_by_structure,
    sum_by_structure,
    symmetric_tensor,
)


def test_six_numbers_become_the_tensor_in_voigt_order() -> None:
    six = torch.arange(1.0, 13).double().reshape(2, 6)
    tensor = symmetric_tensor(six)
    assert torch.equal(tensor, tensor.transpose(1, 2))
    np.testing.assert_array_equal(tensor, voigt_to_full(six))
    np.testing.assert_array_equal(full_to_voigt(tensor), six)


def test_sums_and_means_keep_structures_apart() -> None:
    batch = collate([structures.metal(), structures.crystal(), structures.slab()])
    x = torch.arange(float(batch.n_atoms))
    assert sum_by_structure(x, batch).tolist() == [0, 1 + 2 + 3 + 4, 5 + 6 + 7]
    assert mean_by_structure(x, batch).tolist() == [0, 2.5, 6]
    assert mean_by_structure(x[:, None, None].expand(-1, 3, 3), batch).shape == (3, 3, 3)


def test_a_long_sum_keeps_its_digits_in_float32() -> None:
    batch = collate([structures.supercell(structures.metal(), (30, 30, 30))])
    found = sum_by_structure(torch.full((batch.n_atoms,), 0.1), batch)
    assert abs(found.item() - 27_000 * float(torch.tensor(0.1))) < 1e-6


def test_doubling_a_structure_doubles_its_energy_and_leaves_its_stress() -> None:
    torch.manual_seed(0)
    heads = DirectHeads((5, 7)).double()
    one = collate([structures.crystal()], dtype=torch.float64)
    two = collate([structures.supercell(structures.crystal(), (1, 2, 1))], dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64)
    single, double = heads(x, one), heads(x.repeat(2, 1), two)
    torch.testing.assert_close(double.energy, 2 * single.energy)
    torch.testing.assert_close(double.stress, single.stress)


def test_heads_start_near_zero_at_every_width() -> None:
    torch.manual_seed(0)
    for width in (8, 64, 512):
        heads = DirectHeads(head_widths(width, 128, 3))
        assert heads.forces(torch.randn(50, width)).abs().max() < 0.3


def test_heads_have_two_or_three_layers() -> None:
    assert head_widths(32, 128, 2) == (32, 128)
    assert head_widths(32, 128, 3) == (32, 32, 128)
    for layers in (2, 3):
        widths = head_widths(32, 16, layers)
        n_weights = sum(p.numel() for n, p in DirectHeads(widths).named_parameters() if n.endswith("weight"))
        assert n_weights == DirectHeads.multiply_adds(widths)
