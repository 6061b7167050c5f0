"""EScAIP against the numbers of fairchem's own model with the same weights."""

from __future__ import annotations

import torch

from matscale.core.model.architecture import count_parameters
from matscale.core.model.outputs import model_outputs


def test_the_layout_keeps_the_neighbours_of_the_golden_run(golden) -> None:
    layout = golden.model().make_layout(golden.batch())
    theirs_used = golden.tensors[f"{golden.kind}.graph.neighbor_mask"]
    assert torch.equal(layout.is_used.sum(1), theirs_used.sum(1))
    assert torch.equal(layout.neighbors[:, 0], torch.arange(len(layout.neighbors)))
    theirs = golden.tensors[f"{golden.kind}.graph.attn_mask_head0"][:, 0].double()  # their slots are sorted by it
    ours = layout.log_weight.sort(dim=1, descending=True).values
    torch.testing.assert_close(ours.exp(), theirs.exp(), rtol=0, atol=1e-5)


def test_each_slot_holds_the_neighbour_of_the_golden_run_in_its_direction(golden) -> None:
    layout = golden.model().make_layout(golden.batch())
    numbers = golden.tensors[f"{golden.kind}.graph.neighbor_list"]
    directions = golden.tensors[f"{golden.kind}.graph.edge_direction"].double()
    used = golden.tensors[f"{golden.kind}.graph.neighbor_mask"]
    for atom in range(len(used)):
        theirs = torch.cat([numbers[atom, used[atom], None], directions[atom, used[atom]]], dim=1)
        ours = torch.cat(
            [layout.neighbors[atom, layout.is_used[atom], None], layout.direction[atom, layout.is_used[atom]]], dim=1
        )
        distance = torch.cdist(ours.double(), theirs).min(dim=1)
        assert distance.values.max() < 1e-5
        assert len(distance.indices.unique()) == len(theirs)


def test_golden_weights_give_golden_outputs(golden) -> None:
    model, batch = golden.model(), golden.batch()
    found = model_outputs(model, batch, derive=golden.kind == "gradient").detach()
    for name in ("energy", "forces") if golden.kind == "direct" else ("energy", "forces", "stress"):
        expected = golden.out(name)
        error = (getattr(found, name).reshape(expected.shape) - expected).abs().max()
        assert error < 1e-4 * expected.abs().max(), name


def test_float32_gives_golden_outputs_too(golden) -> None:
    found = model_outputs(
        golden.model(torch.float32), golden.batch(torch.float32), derive=golden.kind == "gradient"
    ).detach()
    for name in ("energy", "forces"):
        expected = golden.out(name)
        assert (getattr(found, name).double() - expected).abs().max() < 1e-4 * expected.abs().max(), name


def test_the_model_has_the_parameters_of_the_golden_one(golden) -> None:
    """Theirs for gradients has one norm that nothing reads; ours has not."""
    unread = 0 if golden.kind == "direct" else golden.config.hidden
    assert count_parameters(golden.model())["total"] == golden.facts["n_params"] - unread
