"""The battery passes a healthy model and finds each fault in a broken one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from matscale.core.contract import BoundCheck, Check, all_checks
from matscale.core.contract.subject import ContractError, Subject
from matscale.core.data.batch import AtomicBatch, BatchShape
from matscale.core.data.graph import Graph
from matscale.core.model.architecture import CLAIMS, Architecture, ArchitectureConfig, DatasetInfo
from matscale.core.model.layers.heads import mean_by_structure, sum_by_structure
from matscale.core.model.layers.padding import Padding
from matscale.core.model.layers.radial import GaussianBasis, cosine_cutoff
from matscale.core.model.outputs import Outputs
from matscale.testing import checks, run_contract


class PairConfig(ArchitectureConfig):
    width: int = 8
    """Channels."""
    cutoff: float = 4.0
    """Å"""


class Pair(nn.Module):
    """A learned pair potential: healthy. The faults below each change one thing about it."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__()
        self.cutoff = config.cutoff
        self.element = nn.Embedding(119, config.width)
        self.basis = GaussianBasis(config.cutoff, 8)
        self.radial = nn.Linear(8, config.width, bias=False)
        self.readout = nn.Sequential(nn.SiLU(), nn.Linear(config.width, 1))

    def envelope(self, d: Tensor) -> Tensor:
        return cosine_cutoff(d, self.cutoff)

    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        """[n_atoms]"""
        (j, i), d = data.edges(), data.edge_distance()
        z = self.element(data.atomic_numbers)
        pairs = self.readout(self.radial(self.basis(d)) * z[i] * z[j]).squeeze(-1) * self.envelope(d)
        return z.sum(-1) + torch.zeros_like(data.positions[:, 0]).index_add(0, i, pairs)

    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(energy=sum_by_structure(self.atomic_energy(data), data))


class Zeros(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return 0.0 * super().atomic_energy(data)


class Constant(Pair):
    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(energy=0 * super().forward(data).energy + self.readout[1].bias)


class WithGradients(Pair):
    """Takes its own derivatives, as a model must not, so that a test can spoil them."""

    forces_factor, stress_factor = 1.0, 1.0

    def forward(self, data: AtomicBatch) -> Outputs:
        with torch.enable_grad():
            positions = data.positions if data.positions.requires_grad else data.positions.detach().requires_grad_()
            strain = torch.zeros_like(data.cell, requires_grad=True)
            moved = positions + torch.einsum("na,nab->nb", positions, strain[data.batch])
            energy = super().forward(data.with_geometry(moved, data.cell + data.cell @ strain)).energy
            slope, tension = torch.autograd.grad(energy.sum(), (positions, strain), create_graph=True)
        volume = data.volume().clamp(min=1e-9)[:, None, None]
        stress = 0.5 * (tension + tension.transpose(1, 2)) / volume
        return Outputs(energy, -self.forces_factor * slope, self.stress_factor * stress)


class ForcesPointUphill(WithGradients):
    forces_factor = -1.0


class StressInGigapascal(WithGradients):
    stress_factor = 160.2


class StressIsCompression(WithGradients):
    stress_factor = -1.0


class HardCutoff(Pair):
    def envelope(self, d: Tensor) -> Tensor:
        return torch.ones_like(d)


class LinearCutoff(Pair):
    def envelope(self, d: Tensor) -> Tensor:
        return 1 - d / self.cutoff


class MeanEnergy(Pair):
    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(energy=mean_by_structure(self.atomic_energy(data), data))


class SeesTheOrigin(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return super().atomic_energy(data) + 0.1 * data.positions.norm(dim=-1)


class SeesTheCell(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return super().atomic_energy(data) + 0.1 * data.cell[data.batch].square().sum((1, 2))


class SeesAnAxis(Pair):
    def envelope(self, d: Tensor) -> Tensor:
        return super().envelope(d)

    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        (_, i), vec = data.edges(), data.edge_vec()
        along = vec[:, 2].square() * self.envelope(vec.norm(dim=-1))
        return super().atomic_energy(data) + torch.zeros_like(data.positions[:, 0]).index_add(0, i, along)


class StepsInDirection(Pair):
    """As a message does on a grid that is turned at a border of two charts: nearly equivariant, and not continuous."""

    size = 1e-4

    def border(self, y: Tensor) -> Tensor:
        return (y.abs() > 0.9).to(y.dtype)

    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        (_, i), d = data.edges(), data.edge_distance()
        error = self.size * self.border(data.edge_vec()[:, 1] / d) * self.envelope(d)
        return super().atomic_energy(data).index_add(0, i, error)


class BendsInDirection(StepsInDirection):
    """Energies are continuous, forces are not."""

    size = 1e-3

    def border(self, y: Tensor) -> Tensor:
        return torch.relu(y.abs() - 0.9)


class ForcesStepInDirection(WithGradients):
    """Direct forces from a frame of each edge; the energy needs none."""

    def forward(self, data: AtomicBatch) -> Outputs:
        outputs, (_, i), vec = super().forward(data), data.edges(), data.edge_vec()
        along = vec * (vec[:, 1] / vec.norm(dim=-1) > 0.999)[:, None]
        error = torch.zeros_like(data.positions).index_add(0, i, along * self.envelope(vec.norm(dim=-1))[:, None])
        assert outputs.forces is not None
        return replace(outputs, forces=outputs.forces + 1e-5 * error)


class StepsInANarrowCap(StepsInDirection):
    def border(self, y: Tensor) -> Tensor:
        return (y > 0.999).to(y.dtype)


class StepsWhenGrown(StepsInDirection):
    """With weights of ordinary size its grid is all but exact."""

    @property
    def size(self) -> Tensor:  # type: ignore[override]
        return 1e-3 * torch.relu(self.element.weight.detach().abs().max() - 8)


class SeesTheHand(Pair):
    """Three sums over neighbours span a volume whose sign changes in a mirror and not under rotation."""

    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        (j, i), vec = data.edges(), data.edge_vec()
        d = vec.norm(dim=-1)
        z = data.atomic_numbers[j]
        legs = []
        for weight in (torch.ones_like(d), torch.sin(z), torch.cos(z) * d):
            each = vec * (weight * self.envelope(d))[:, None]
            legs.append(torch.zeros_like(data.positions).index_add(0, i, each))
        return super().atomic_energy(data) + 0.1 * torch.linalg.det(torch.stack(legs, 1))


class SeesTheNumbering(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return super().atomic_energy(data) * (1 + 0.1 * Padding.of(data).rank)


class SeesTheBatch(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        energy = super().atomic_energy(data)
        return energy - 0.1 * energy.mean()


class SeesThePadding(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return super().atomic_energy(data) / int(data.atoms_per_structure.max())


class OnlyFloat32(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return super().atomic_energy(data).float()

    def forward(self, data: AtomicBatch) -> Outputs:
        energy = self.atomic_energy(data)
        return Outputs(energy=energy.new_zeros(data.n_structures).index_add(0, data.batch, energy))


class DividesByNeighbours(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        degree = torch.bincount(data.edges()[1], minlength=data.n_atoms)
        return super().atomic_energy(data) / degree


class UnusedLayer(Pair):
    def __init__(self, config: PairConfig) -> None:
        super().__init__(config)
        self.spare = nn.Linear(3, 3)


class ForgetsItsState(Pair):
    def __init__(self, config: PairConfig) -> None:
        super().__init__(config)
        self.register_buffer("secret", torch.rand(1), persistent=False)

    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return super().atomic_energy(data) * self.secret


class DropsInEvaluation(Pair):
    def atomic_energy(self, data: AtomicBatch) -> Tensor:
        return nn.functional.dropout(super().atomic_energy(data), 0.5, training=True)


built: list[int] = []


class CountsItsSiblings(Pair):
    """As the research code did: each construction divided the shared means once more."""

    def __init__(self, config: PairConfig) -> None:
        super().__init__(config)
        built.append(1)
        nn.init.constant_(self.readout[1].bias, 1 / len(built))


class ShapeOfTheWrongKind(Pair):
    def forward(self, data: AtomicBatch) -> Outputs:
        return Outputs(energy=super().forward(data).energy[:, None])


class Raises(Pair):
    def forward(self, data: AtomicBatch) -> Outputs:
        raise KeyError("no such table")


class Direct(Pair):
    """Forces and stress by numbers that do not turn with the structure."""

    def forward(self, data: AtomicBatch) -> Outputs:
        e = self.atomic_energy(data)
        axis = torch.tensor([1.0, 0.5, -0.3]).to(e)
        stress = mean_by_structure(e[:, None, None] * torch.outer(axis, axis), data)
        return Outputs(sum_by_structure(e, data), e[:, None] * axis, stress)


class HalfAPotential(Pair):
    """Declared direct, but predicts no forces."""


def architecture(model: type[nn.Module], **changes: object) -> Architecture:
    healthy = Architecture(
        name="pair",
        summary="Learned pair potential.",
        reference="none",
        config=PairConfig,
        build=lambda config, info: model(config),
        ladder=lambda n_params: PairConfig(width=max(1, n_params // 128)),
        dial="channels",
        claims=frozenset(CLAIMS),
        forces="gradient",
        graph=lambda config: Graph.radius(config.cutoff),
    )
    return replace(healthy, **changes)  # type: ignore[arg-type]


def failures(architecture: Architecture) -> set[str]:
    """Of the whole battery."""
    return {result.name for result in run_contract(architecture, PairConfig()) if result.status == "failed"}


def fails(architecture: Architecture, check: str, tolerance: float = 1e-6) -> bool:
    """Whether the model fails one check of the battery."""
    (found,) = [c for c in checks(architecture, PairConfig(), tolerance=tolerance) if c.check.name == check]
    try:
        found()
    except Exception:
        return True
    return False


def test_a_healthy_model_passes_all_that_applies() -> None:
    results = run_contract(architecture(Pair), PairConfig())
    assert {r.name: r.detail for r in results if r.status == "failed"} == {}
    assert {r.name for r in results if r.status == "skipped"} == {"attention", "embeddings", "flops"}  # it gives none
    assert len(results) == len(all_checks())


@pytest.mark.parametrize(
    ("model", "check"),
    [
        (Zeros, "responds"),
        (Constant, "responds"),
        (ForcesPointUphill, "forces-are-gradients"),
        (StressInGigapascal, "stress-is-a-gradient"),
        (StressIsCompression, "stress-is-a-gradient"),
        (HardCutoff, "smooth"),
        (LinearCutoff, "smooth"),
        (StepsInDirection, "smooth-in-direction"),
        (BendsInDirection, "smooth-in-direction"),
        (StepsInANarrowCap, "smooth-in-direction"),
        (StepsWhenGrown, "smooth-in-direction"),
        (MeanEnergy, "extensive"),
        (SeesTheOrigin, "translation"),
        (SeesTheOrigin, "periodic"),
        (SeesTheCell, "periodic"),
        (SeesAnAxis, "rotation"),
        (SeesTheHand, "reflection"),
        (SeesTheNumbering, "permutation"),
        (SeesTheBatch, "batch-equals-members"),
        (SeesThePadding, "padded-equals-ragged"),
        (OnlyFloat32, "shapes-and-dtypes"),
        (ShapeOfTheWrongKind, "shapes-and-dtypes"),
        (DividesByNeighbours, "few-atoms"),
        (UnusedLayer, "gradients-reach-all"),
        (ForgetsItsState, "state-round-trip"),
        (DropsInEvaluation, "state-round-trip"),
        (CountsItsSiblings, "same-seed-same-weights"),
    ],
)
def test_a_fault_fails_the_check_that_is_meant_for_it(model: type[nn.Module], check: str) -> None:
    (found,) = [c for c in checks(architecture(model), PairConfig()) if c.check.name == check]
    with pytest.raises(ContractError):
        found()


@pytest.mark.parametrize(
    ("model", "only"),
    [
        (ForcesPointUphill, {"forces-are-gradients"}),
        (StressInGigapascal, {"stress-is-a-gradient"}),
        (HardCutoff, {"smooth"}),
        (UnusedLayer, {"gradients-reach-all"}),
    ],
)
def test_a_fault_is_not_blamed_on_anything_else(model: type[nn.Module], only: set[str]) -> None:
    assert failures(architecture(model)) == only


@pytest.mark.parametrize("model", [StepsInDirection, BendsInDirection, StepsWhenGrown])
def test_a_step_within_the_stated_error_of_rotation_is_still_a_step(model: type[nn.Module]) -> None:
    nearly = architecture(model, rotation_tolerance=1e-2)
    assert fails(nearly, "smooth-in-direction")
    assert not fails(nearly, "smooth")
    assert failures(replace(nearly, claims=nearly.claims - {"smooth"})) == set()


def test_direct_forces_that_step_where_the_energy_does_not_are_found() -> None:
    options = {"forces": "direct", "claims": frozenset({"rotation", "smooth"}), "rotation_tolerance": 1e-2}
    (healthy,), (stepping,) = (
        [c for c in checks(architecture(model, **options), PairConfig()) if c.check.name == "smooth-in-direction"]
        for model in (WithGradients, ForcesStepInDirection)
    )
    healthy()
    with pytest.raises(ContractError, match="rad changes forces of up to"):
        stepping()


def test_a_chiral_model_may_claim_rotation_without_reflection() -> None:
    assert failures(architecture(SeesTheHand, claims=frozenset(CLAIMS) - {"reflection"})) == set()


def test_a_direct_model_that_claims_rotation_is_found_out() -> None:
    direct = architecture(Direct, forces="direct")
    assert fails(direct, "rotation")
    assert fails(direct, "reflection")
    assert failures(replace(direct, claims=direct.claims - {"rotation", "reflection"})) == set()


def test_a_direct_model_has_to_predict_forces() -> None:
    assert fails(architecture(HalfAPotential, forces="direct"), "shapes-and-dtypes")


def test_a_model_that_raises_fails_and_the_battery_goes_on() -> None:
    results = run_contract(architecture(Raises), PairConfig())
    assert len(results) == len(all_checks())
    details = {r.name: r.detail for r in results if r.status == "failed"}
    assert details["rotation"] == "KeyError: 'no such table'"
    assert "same-seed-same-weights" not in details


@pytest.mark.parametrize(("factor", "is_wrong"), [(1.0, False), (1.05, True), (0.5, True)])
def test_a_flop_formula_is_held_against_the_count(factor: float, is_wrong: bool) -> None:
    def formula(config: PairConfig, shape: BatchShape) -> float:
        return factor * 6 * 2 * (8 + 1) * config.width * shape.n_edges

    assert fails(architecture(Pair, step_flops=formula), "flops") == is_wrong


def test_checks_for_pytest_raise_what_they_found_and_leave_out_what_does_not_apply() -> None:
    bound = {str(check): check for check in checks(architecture(ForcesPointUphill), PairConfig())}
    assert "pair-flops" not in bound
    bound["pair-rotation"]()
    with pytest.raises(ContractError, match=r"forces on .* differ by"):
        bound["pair-forces-are-gradients"]()


def test_what_one_check_does_to_a_model_does_not_reach_another() -> None:
    def vandal(subject: Subject) -> None:
        subject.sizes["energy"] = 1e9  # all differences would be small against it
        with torch.no_grad():
            for parameter in subject.potential.parameters():
                parameter.zero_()

    healthy, faulty = (
        {c.check.name: c for c in checks(architecture(model), PairConfig())} for model in (Pair, SeesTheOrigin)
    )
    for bound in (healthy["responds"], faulty["translation"]):
        BoundCheck(Check("vandal", "spoils what it is given", vandal, lambda subject: None), bound.subject)()
    healthy["responds"]()
    with pytest.raises(ContractError, match=r"energy: values .* differ"):
        faulty["translation"]()


def test_the_callers_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    run_contract(architecture(DropsInEvaluation), PairConfig())
    assert torch.equal(torch.rand(3), expected)


def test_a_model_may_be_checked_within_a_looser_tolerance() -> None:
    class Nearly(Pair):
        def atomic_energy(self, data: AtomicBatch) -> Tensor:
            return super().atomic_energy(data) + 1e-5 * data.positions.norm(dim=-1) / (1 + data.positions.norm(dim=-1))

    nearly = architecture(Nearly)
    assert fails(nearly, "translation", tolerance=1e-8)
    assert not fails(nearly, "translation", tolerance=1e-2)
    found = run_contract(nearly, PairConfig(), tolerance=1e-2)
    assert next(r.status for r in found if r.name == "translation") == "passed"


def test_an_architecture_may_state_how_nearly_it_keeps_rotations() -> None:
    class Nearly(Pair):
        def atomic_energy(self, data: AtomicBatch) -> Tensor:
            i = data.edges()[1]
            skew = data.edge_vec()[:, 0] ** 4 * self.envelope(data.edge_distance())
            return super().atomic_energy(data).index_add(0, i, 1e-5 * skew)

    stated = architecture(Nearly, rotation_tolerance=1e-2)
    assert failures(stated) == set()
    for check in ("rotation", "reflection"):
        assert fails(replace(stated, rotation_tolerance=1e-9), check)


def test_a_model_may_name_parameters_that_it_keeps_without_use() -> None:
    class KeepsOne(Pair):
        idle = frozenset({"kept"})

        def __init__(self, config: PairConfig) -> None:
            super().__init__(config)
            self.kept = nn.Parameter(torch.ones(3))

        def atomic_energy(self, data: AtomicBatch) -> Tensor:
            return super().atomic_energy(data) + 0.0 * self.kept.sum()

        def idle_parameters(self) -> frozenset[str]:
            return self.idle

    class NamesOneInUse(KeepsOne):
        idle = frozenset({"kept", "radial.weight"})

    class NamesNone(KeepsOne):
        idle = frozenset()

    assert failures(architecture(KeepsOne)) == set()
    assert fails(architecture(NamesOneInUse), "gradients-reach-all")
    assert fails(architecture(NamesNone), "gradients-reach-all")


def test_the_info_that_training_passes_can_be_narrow() -> None:
    seen: list[DatasetInfo] = []

    def build(config: PairConfig, info: DatasetInfo) -> nn.Module:
        seen.append(info)
        return Pair(config)

    assert failures(architecture(Pair, build=build)) == set()
    assert any(np.size(info.elements) == 2 for info in seen)


def test_an_architecture_of_few_elements_can_be_checked() -> None:
    class UpToOxygen(Pair):
        def __init__(self, config: PairConfig) -> None:
            super().__init__(config)
            self.element = nn.Embedding(9, config.width)

    assert fails(architecture(UpToOxygen), "responds")
    assert failures(architecture(UpToOxygen, max_atomic_number=8)) == set()
