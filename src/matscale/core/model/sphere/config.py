"""Base class of configurations: what options that all models on the sphere have demand of each other, and imply."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import model_validator

from matscale.core.model.architecture import ArchitectureConfig


class SphereConfig(ArchitectureConfig):
    """Configuration of a model on the sphere. A child declares the options, in its own order and with its defaults."""

    if TYPE_CHECKING:
        lmax: int
        mmax: int
        max_neighbors: int
        forces: Literal["direct", "gradient"]
        stress_head: str

    without_limit: ClassVar[str] = "Leave max_neighbors out, or set forces = 'direct'."
    """Advice for derived forces with a limit on the number of neighbours."""

    @model_validator(mode="after")
    def _orders_stress_and_neighbors_fit(self) -> Self:
        if self.mmax > self.lmax:
            raise ValueError(f"mmax = {self.mmax} exceeds lmax = {self.lmax}: an order |m| is at most its degree l.")
        if self.predicts_stress and self.lmax < 2:
            raise ValueError(
                f"lmax = {self.lmax}: a stress predicted directly has l = 2 parts. Use lmax = 2 or more, "
                "forces = 'gradient', or stress_head = 'none'."
            )
        if self.forces == "gradient" and self.max_neighbors:
            raise ValueError(
                f"forces = 'gradient' with max_neighbors = {self.max_neighbors}: the energy would jump whenever the "
                f"order of the neighbours changes. {self.without_limit}"
            )
        return self

    @property
    def n_coefficients(self) -> int:
        """Number K of coefficients of an atom: all (l, m) with l ≤ lmax."""
        return (self.lmax + 1) ** 2

    @property
    def is_smooth(self) -> bool:
        """Whether no limit on the number of neighbours makes energies jump."""
        return self.max_neighbors == 0

    @property
    def predicts_stress(self) -> bool:
        """Whether the model has a head of the stress."""
        return self.forces == "direct" and self.stress_head != "none"

    def claims(self, *, rotation: bool) -> frozenset[str]:
        """Claims of the model. Only its grids decide on `rotation`; convolutions on edges break `reflection`."""
        held = {"permutation", "translation", "periodic", "extensive", "conservative"}
        return frozenset(held | ({"rotation"} if rotation else set()) | ({"smooth"} if self.is_smooth else set()))
