"""Options of GemNet: one configuration for GemNet-T, GemNet-dT, GemNet-OC and models between them.

GemNet-T has triplets and gradient forces, GemNet-dT the same with direct forces. GemNet-OC adds four interactions, each
of which can be switched on separately, and joins the outputs of all blocks in one network (`n_joint_layers`).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from matscale.plugin import ArchitectureConfig, Graph, Positive


class GemNetConfig(ArchitectureConfig):
    """Configuration of GemNet. `matscale.plugins.gemnet.fairchem.names` maps fairchem's names of these options."""

    n_layers: Positive = 3
    """Number of interaction blocks; there is one more output block."""
    atom_channels: int = Field(default=128, ge=2)
    """Channels A of an atom."""
    edge_channels: int = Field(default=128, ge=2)
    """Channels E of a directed edge, which carries the messages."""
    triplet_in: int = Field(default=32, ge=2)
    """Channels of an edge (or atom) in a sum over angles."""
    triplet_out: int = Field(default=32, ge=2)
    """Channels after the sum over angles."""
    quadruplet_in: int = Field(default=16, ge=2)
    """Channels of an edge in the sum over dihedral angles."""
    quadruplet_out: int = Field(default=16, ge=2)
    """Channels after the sum over dihedral angles."""
    pair_in: int = Field(default=32, ge=2)
    """Channels of an atom in the sum of the atom-atom interaction."""
    pair_out: int = Field(default=32, ge=2)
    """Channels after the sum of the atom-atom interaction."""
    n_radial: int = Field(default=128, ge=2)
    """Number R of Gaussians of a distance, on [0, cutoff]."""
    n_spherical: Positive = 7
    """Number L of Legendre polynomials of an angle, degrees 0 to L − 1; dihedrals have L² products of two."""
    radial_embedding: int = Field(default=16, ge=2)
    """Number of functions to which the Gaussians are projected; the projection is shared by all blocks."""
    circular_embedding: int = Field(default=16, ge=2)
    """Number of functions to which the basis of distance and angle is projected."""
    spherical_embedding: int = Field(default=32, ge=2)
    """Number of functions to which the basis of distance, angle and dihedral is projected."""
    n_before_skip: int = Field(default=1, ge=0)
    """Number of residual layers of an edge before its previous value is added."""
    n_after_skip: int = Field(default=2, ge=0)
    """Number of residual layers of an edge after its previous value is added."""
    n_concat: int = Field(default=1, ge=0)
    """Number of residual layers of the update of an edge from its two atoms."""
    n_atom: int = Field(default=3, ge=0)
    """Number of residual layers of an atom after the sum over its edges, and of an edge in the force outputs."""
    n_atom_before: int = Field(default=0, ge=0)
    """Number of residual layers of an atom before the sum over its edges is added; 2 in GemNet-OC."""
    n_output_after: int = Field(default=0, ge=0)
    """Number of residual layers of an output block after the atom's channels are added; 3 in GemNet-OC.

    With 0 the atom's channels are not added.
    """
    n_joint_layers: int | None = Field(default=None, ge=0)
    """Number of residual layers of one network that predicts from the outputs of all blocks (2 in GemNet-OC).

    None: each output block predicts, and the predictions are added (GemNet-T).
    """
    always_project: bool = True
    """Whether a dense layer maps edges to atoms even if both have equally many channels; false in GemNet-OC."""
    quadruplets: bool = False
    """Quadruplets: whether edges c → a depend on dihedral angles c, a, b, d."""
    atom_edge: bool = False
    """Atom-edge interaction: whether edges c → a depend on the atoms b around a."""
    edge_atom: bool = False
    """Edge-atom interaction: whether atoms a depend on edges b → a, by their angles to further neighbours c."""
    atom_atom: bool = False
    """Atom-atom interaction: whether atoms depend on other atoms by distance alone, beyond the length of edges."""
    cutoff: float = Field(default=6.0, gt=0)
    """Cutoff of the edges that carry messages [Å]."""
    cutoff_quadruplets: float | None = Field(default=None, gt=0)
    """Cutoff of the middle edge b → a of a quadruplet [Å]; None: `cutoff`."""
    cutoff_atom_edge: float | None = Field(default=None, gt=0)
    """Cutoff of the pairs of the atom-edge and edge-atom interactions [Å]; None: `cutoff`."""
    cutoff_atom_atom: float | None = Field(default=None, gt=0)
    """Cutoff of the pairs of the atom-atom interaction [Å]; None: the largest of the others."""
    max_neighbors: int | None = Field(default=None, ge=1)
    """Number of nearest neighbours of an atom that are kept; None: all within the cutoff."""
    max_neighbors_quadruplets: int | None = Field(default=None, ge=1)
    """Number of nearest neighbours that are kept for the middle edges of quadruplets."""
    max_neighbors_atom_edge: int | None = Field(default=None, ge=1)
    """Number of nearest neighbours that are kept for the pairs of the atom-edge and edge-atom interactions."""
    max_neighbors_atom_atom: int | None = Field(default=None, ge=1)
    """Number of nearest neighbours that are kept for the pairs of the atom-atom interaction."""
    image_kept: Literal["below", "above"] = "below"
    """Which edges between an atom and its own images are kept, each with its reverse.

    `below`: those whose first non-zero shift is negative (GemNet-T); `above`: positive (GemNet-OC). The choice matters
    if `max_neighbors` keeps only one of two opposite images.
    """
    forces: Literal["direct", "gradient"] = "direct"
    """Source of the forces: magnitudes along the edges (GemNet-dT, -OC), or derivatives of the energy (GemNet-T)."""
    stress_head: Literal["equivariant", "none"] = "equivariant"
    """Source of the stress: two magnitudes along each edge; with `none`, as published, the model predicts no stress.

    The option has an effect only with direct forces.
    """
    max_atomic_number: int = Field(default=118, ge=1, le=118)
    """Highest atomic number that has a row in the embedding."""

    @model_validator(mode="after")
    def _an_answer_to_every_question(self) -> Self:
        for switch, names in _OF_SWITCH.items():
            if not any(getattr(self, s) for s in switch.split(" or ")):
                for name in names:
                    if getattr(self, name) is not None:
                        raise ValueError(
                            f"{name} = {getattr(self, name)} belongs to an interaction that is switched off: "
                            f"set {switch} = true, or leave it out."
                        )
        return self

    # Graphs -----------------------------------------------------------------------------------------------------------

    def rule(self, interaction: Literal["edges", "quadruplets", "atom_edge", "atom_atom"]) -> Graph:
        """Neighbour rule of an interaction."""
        if interaction == "edges":
            return _rule(self.cutoff, self.max_neighbors)
        if interaction == "quadruplets":
            return _rule(self.cutoff_quadruplets or self.cutoff, self.max_neighbors_quadruplets)
        if interaction == "atom_edge":
            return _rule(self.cutoff_atom_edge or self.cutoff, self.max_neighbors_atom_edge)
        longest = max(self.cutoff, self.cutoff_quadruplets or 0.0, self.cutoff_atom_edge or 0.0)
        return _rule(self.cutoff_atom_atom or longest, self.max_neighbors_atom_atom)

    @property
    def rules(self) -> list[Graph]:
        """Neighbour rules of the interactions that are switched on."""
        found = [self.rule("edges")]
        if self.quadruplets:
            found.append(self.rule("quadruplets"))
        if self.atom_edge or self.edge_atom:
            found.append(self.rule("atom_edge"))
        if self.atom_atom:
            found.append(self.rule("atom_atom"))
        return found

    @property
    def predicts_stress(self) -> bool:
        """Whether the model predicts a stress without derivatives."""
        return self.forces == "direct" and self.stress_head == "equivariant"


_OF_SWITCH = {
    "quadruplets": ("cutoff_quadruplets", "max_neighbors_quadruplets"),
    "atom_edge or edge_atom": ("cutoff_atom_edge", "max_neighbors_atom_edge"),
    "atom_atom": ("cutoff_atom_atom", "max_neighbors_atom_atom"),
}


def _rule(cutoff: float, max_neighbors: int | None) -> Graph:
    return Graph.radius(cutoff) if max_neighbors is None else Graph.nearest(cutoff, max_neighbors)


def graph(config: GemNetConfig) -> Graph:
    """Smallest graph that contains the graphs of all interactions."""
    rules = config.rules
    cutoff = max(rule.cutoff for rule in rules)
    counts = [rule.n_neighbors for rule in rules]
    return Graph.radius(cutoff) if min(counts) == 0 else Graph.nearest(cutoff, max(counts))
