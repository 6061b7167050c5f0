"""Checks that every architecture must pass, whatever it claims."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from safetensors.torch import load, save
from torch import Tensor

from matscale.core.contract.check import register
from matscale.core.contract.structures import (
    atom,
    crystal,
    distant_pair,
    metal,
    molecule,
    slab,
    structure,
    supercell,
    with_positions,
)
from matscale.core.contract.subject import Subject, require, require_equal
from matscale.core.data.batch import AtomicBatch
from matscale.core.data.neighbors import collate
from matscale.core.errors import DataError
from matscale.core.flops import count_step
from matscale.core.model.architecture import DatasetInfo
from matscale.core.model.attention import attention_kept
from matscale.core.model.outputs import Outputs


@register("shapes-and-dtypes")
def shapes_and_dtypes(subject: Subject) -> None:
    """Energy, forces and stress have the right shapes, are finite, and keep the precision of the batch."""
    results = {}
    for dtype in (torch.float32, torch.float64):
        batch = subject.batch(crystal(), metal(), slab(), dtype=dtype)
        potential = subject.perturbed().to(dtype)
        outputs = potential(batch)
        _well_formed(outputs, batch)
        raw = potential.model(batch)
        require(
            raw.energy.dtype in (dtype, torch.float64),
            f"the model's energy has type {raw.energy.dtype}, expected {dtype} as in the batch, or float64.",
        )
        results[dtype] = outputs.detach()
    single = results[torch.float32]
    in_double = Outputs(single.energy.double(), _double(single.forces), _double(single.stress))
    subject.require_same(in_double, results[torch.float64], "float32 against float64", 1e-2)


def _double(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.double()


def _well_formed(outputs: Outputs, batch: AtomicBatch) -> None:
    wanted = {"energy": (batch.n_structures,), "forces": (batch.n_atoms, 3), "stress": (batch.n_structures, 3, 3)}
    for name, shape in wanted.items():
        value = getattr(outputs, name)
        if value is None:
            require(name == "stress", f"the potential gives no {name}: a direct model must predict energy and forces.")
            continue
        require(value.shape == shape, f"{name} has shape {tuple(value.shape)}, expected {shape}.")
        require(value.isfinite().all(), f"{name} of an ordinary crystal is not finite.")
        if name != "energy":
            kind = batch.positions.dtype
            require(value.dtype == kind, f"{name} has type {value.dtype}, expected {kind} as in the batch.")
    if outputs.stress is not None:
        require_equal(outputs.stress, outputs.stress.transpose(1, 2), 1e-4, "stress against its transpose")


@register("responds")
def responds(subject: Subject) -> None:
    """Energy, forces and stress depend on elements and positions: a model that predicts constants does not pass."""
    original = crystal()
    swapped = replace(original, atomic_numbers=original.atomic_numbers[::-1].copy())
    here = subject.predict(original)
    assert here.forces is not None
    require(here.forces.norm(dim=-1).mean() > 1e-6, "the forces on the atoms of a rattled crystal are zero.")
    for other, what in ((crystal(1), "moving the atoms"), (swapped, "exchanging the elements")):
        there = subject.predict(other)
        for name in ("energy", "forces", "stress"):
            a, b = getattr(here, name), getattr(there, name)
            if a is not None:
                require((a - b).abs().max() > 1e-9 * a.abs().max(), f"{what} does not change the {name}.")


@register("batch-equals-members")
def batch_equals_members(subject: Subject) -> None:
    """A structure has the same energy, forces and stress alone and in a batch, in any order."""
    batch = subject.batch(slab(), crystal(), metal(), molecule(), crystal(3))
    together = _parts(subject.evaluate(batch), batch)
    for k, member in enumerate(batch.split()):
        subject.require_same(together[k], subject.evaluate(member), f"structure {k} in a batch and alone")
    backwards = AtomicBatch.join(batch.split()[::-1])
    for k, found in enumerate(_parts(subject.evaluate(backwards), backwards)[::-1]):
        subject.require_same(found, together[k], f"structure {k} in another order of the batch")


def _parts(outputs: Outputs, batch: AtomicBatch) -> list[Outputs]:
    forces = outputs.forces
    assert forces is not None
    per_structure = forces.split(batch.atoms_per_structure.tolist())
    return [
        Outputs(
            outputs.energy[k : k + 1], per_structure[k], None if outputs.stress is None else outputs.stress[k : k + 1]
        )
        for k in range(batch.n_structures)
    ]


@register("padded-equals-ragged")
def padded_equals_ragged(subject: Subject) -> None:
    """A large structure in a batch does not change the predictions for others, which may be padded to its size."""
    large = supercell(crystal(), (2, 2, 2))
    batch = subject.batch(metal(), large, crystal(2))
    for k, found in enumerate(_parts(subject.evaluate(batch), batch)):
        alone = subject.evaluate(batch.split()[k])
        subject.require_same(found, alone, f"structure {k} beside a cell of {len(large)} atoms")


def _without_embeddings(subject: Subject) -> str | None:
    try:
        model = subject.fresh().model
    except Exception:  # other checks report a model that cannot be built
        return None
    return None if hasattr(model, "embed") else "gives no embeddings of atoms"


@register("embeddings", _without_embeddings)
def embeddings(subject: Subject) -> None:
    """`embed` gives finite features [n_atoms, width], equal alone and in a batch, that depend on the structure."""
    batch = subject.batch(slab(), crystal(), molecule())
    embed = cast(Callable[[AtomicBatch], Tensor], subject.potential.model.embed)
    with torch.no_grad():
        found, moved = embed(batch), embed(subject.batch(crystal(1)))
        alone = [embed(member) for member in batch.split()]
    require(found.dim() == 2 and len(found) == batch.n_atoms, f"embed gives {list(found.shape)}, not [n_atoms, width].")
    require(found.isfinite().all(), "embeddings of ordinary structures are not finite.")
    require_equal(torch.cat(alone), found, subject.tolerance, "embeddings alone and in a batch")
    require((alone[1] - moved).abs().max() > 1e-9, "moving the atoms does not change their embeddings.")


@register("attention", lambda subject: None if subject.architecture.shows_attention else "hands out no attention")
def attention(subject: Subject) -> None:
    """Attention weights are distributions over keys of the same structure, equal alone and in a batch."""
    batch = subject.batch(slab(), crystal(), molecule(), atom())
    with attention_kept() as layers:
        shown = subject.evaluate(batch)
    subject.require_same(shown, subject.evaluate(batch), "outputs while attention weights are handed out")
    require(len(layers) > 0, "no layer hands out attention weights: call hand_attention, or leave out shows_attention.")
    alone = []
    for member in batch.split():
        with attention_kept() as own:
            subject.evaluate(member)
        alone.append(own)
    for k, layer in enumerate(layers):
        weights, n_pairs = layer.weights, len(layer.query)
        require(
            weights.dim() == 2 and weights.shape[1] == len(layer.key) == n_pairs,
            f"layer {k} hands out weights {list(weights.shape)} for {n_pairs} queries, not [n_heads, n_pairs].",
        )
        require((batch.batch[layer.query] == batch.batch[layer.key]).all(), f"layer {k} attends to other structures.")
        require((weights >= 0).all(), f"layer {k} hands out negative weights.")
        total = weights.new_zeros(len(weights), batch.n_atoms).index_add(1, layer.query, weights)
        require_equal(total, torch.ones_like(total), subject.tolerance, f"sums of weights of layer {k} over keys")
        members = torch.cat([own[k].weights for own in alone], dim=1)
        require(members.shape == weights.shape, f"layer {k} has other pairs alone than in a batch.")
        require_equal(
            members.sort(1).values, weights.sort(1).values, subject.tolerance, f"weights of layer {k} alone and batched"
        )


@register("few-atoms")
def few_atoms(subject: Subject) -> None:
    """One atom, two atoms and atoms without neighbours have finite energy, forces and training gradients."""
    close_pair = structure([14, 8], [[0, 0, 0], [1.6, 0, 0]])
    wide = structure([29], [[1.0, 2, 3]], [[60.0, 0, 0], [0, 60, 0], [0, 0, 60]])
    cases = {
        "one atom": [atom()],
        "two atoms": [close_pair],
        "two distant atoms": [distant_pair()],
        "a wide cell": [wide],
    }
    for what, structures in (cases | {"all of these": [s for case in cases.values() for s in case]}).items():
        potential = subject.perturbed().train()
        outputs = potential(subject.batch(*structures))
        assert outputs.forces is not None
        require(
            outputs.energy.isfinite().all() and outputs.forces.isfinite().all(),
            f"{what}: energy or forces are not finite.",
        )
        _objective(outputs).backward()
        for name, parameter in potential.named_parameters():
            finite = parameter.grad is None or bool(parameter.grad.isfinite().all())
            require(finite, f"{what}: the gradient of {name} is not finite.")


@register("unseen-element")
def unseen_element(subject: Subject) -> None:
    """An element that was not in the training data is refused by name."""
    potential = subject.fresh(info=DatasetInfo(elements=(1, 6)))
    potential.check_elements(collate([structure([6, 1], [[0, 0, 0], [1.1, 0, 0]])]))
    try:
        potential.check_elements(collate([structure([6, 7], [[0, 0, 0], [1.1, 0, 0]])]))
    except DataError as refusal:
        require("N (Z = 7)" in str(refusal), f"the refusal does not name the element N: {refusal}")
        return
    require(False, "nitrogen was accepted by a model that was trained on hydrogen and carbon.")


@register("gradients-reach-all")
def gradients_reach_all(subject: Subject) -> None:
    """A loss on energy, forces and stress has a finite, nonzero gradient for every trainable parameter.

    A method `idle_parameters()` of a model may list unused parameters, which it only has because published models have
    them. The gradients of these, and of no others, must be zeros (or rounding errors), but not missing, since an
    optimizer skips parameters without a gradient.
    """
    potential = subject.perturbed().train()
    declared: frozenset[str] = getattr(potential.model, "idle_parameters", frozenset)()
    batch = subject.batch(crystal(), metal(), slab(), crystal(4), molecule())
    _objective(potential(batch)).backward()
    trainable = {name: p for name, p in potential.named_parameters() if p.requires_grad}
    largest = {}
    for name, parameter in trainable.items():
        require(parameter.grad is not None, f"{name} has no gradient: the loss does not depend on it.")
        assert parameter.grad is not None
        require(parameter.grad.isfinite().all(), f"the gradient of {name} is not finite.")
        largest[name] = parameter.grad.abs().max().item()
    dust = 1e-12 * max(largest.values(), default=0.0)
    for name, size in largest.items():
        if name.removeprefix("model.") in declared:
            require(size <= dust, f"{name} is declared idle, but its gradient is up to {size:.3g}.")
        else:
            require(size > 0, f"the gradient of {name} is zero throughout.")


def _objective(outputs: Outputs) -> Tensor:
    """Loss for gradients: a smooth function of all outputs, with the stress where it is defined."""
    assert outputs.forces is not None
    loss = (outputs.energy - 1.3).square().sum() + (outputs.forces - 0.7).square().sum()
    if outputs.stress is not None:
        loss = loss + (outputs.stress[outputs.stress.isfinite()] - 0.2).square().sum()
    return loss


@register("same-seed-same-weights")
def same_seed_same_weights(subject: Subject) -> None:
    """One configuration and one seed give one set of weights, whatever was built before; another seed gives others."""
    settings = subject.config.plain()
    first = subject.fresh(seed=3).state_dict()
    other = subject.architecture.ladder(20_000)
    subject.architecture.model(other, DatasetInfo.any(), 11)
    torch.rand(7)
    second = subject.fresh(seed=3).state_dict()
    require(subject.config.plain() == settings, "building a model changed its configuration.")
    require(first.keys() == second.keys(), "the second model has other tensors than the first.")
    for name, tensor in first.items():
        require(torch.equal(tensor, second[name]), f"{name} differs between two models of one seed.")
    third = subject.fresh(seed=4).state_dict()
    require(any(not torch.equal(first[name], third[name]) for name in first), "the weights do not depend on the seed.")


@register("state-round-trip")
def state_round_trip(subject: Subject) -> None:
    """A state saved as safetensors and loaded into another model gives the same outputs to the last bit."""
    batch = subject.batch(crystal(), metal(), slab())
    trained = subject.potential
    state = {name: tensor.contiguous() for name, tensor in trained.state_dict().items()}
    loaded = subject.fresh(seed=9).double().eval()
    loaded.load_state_dict(load(save(state)), strict=True)
    with torch.no_grad():
        before, again, after = (p(batch) for p in (trained, trained, loaded))
    for name in ("energy", "forces", "stress"):
        a, b, c = (getattr(outputs, name) for outputs in (before, again, after))
        if a is not None:
            require(torch.equal(a, b), f"{name}: two evaluations of one batch differ.")
            require(
                torch.equal(a, c),
                f"{name} differs after a round trip: it depends on a value that is not in the state.",
            )


@register("flops", lambda s: None if s.architecture.step_flops else "gives no formula: FLOPs are counted by running")
def flops(subject: Subject) -> None:
    """`step_flops` agrees within 1 % with the FLOPs counted in a training step, for two batches."""
    formula = subject.architecture.step_flops
    assert formula is not None
    small = [crystal(seed) for seed in range(3)]
    large = [with_positions(big := supercell(crystal(), (2, 1, 1)), big.positions + 0.1 * k) for k in range(2)]
    for structures in (small, large):  # of one size: FLOPs spent on padding are no work
        batch = subject.batch(*structures, dtype=torch.float32)
        counted = count_step(subject.fresh(), batch)
        stated = formula(subject.config, batch.shape)
        require(
            abs(stated - counted) <= 0.01 * counted,
            f"step_flops gives {stated:,.0f} FLOPs, but a step of {batch.shape} takes {counted:,.0f}.",
        )
