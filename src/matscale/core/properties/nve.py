"""Drift of the total energy in molecular dynamics at constant energy (NVE)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from matscale.core.errors import NonFinitePrediction


@dataclass(frozen=True)
class Dynamics:
    """Total energy along a trajectory at constant energy."""

    drift: float
    """Slope of a straight line through the total energy [meV/atom/ps]"""
    fluctuation: float
    """Standard deviation of the total energy from this line [meV/atom]"""
    time_step: float
    """Time step [fs]"""
    duration: float
    """Duration [ps]"""
    times: NDArray[np.float64]
    """Times [ps]"""
    energies: NDArray[np.float64]
    """Total energy at these times, less that at the start [meV/atom]"""
    temperatures: NDArray[np.float64]
    """Temperature at these times [K]"""

    def columns(self, reference: Dynamics | None) -> dict[str, float]:
        """Size of the drift [meV/atom/ps] and of the fluctuation [meV/atom]; both are 0 for an exact integration."""
        return {"nve_drift": abs(self.drift), "nve_fluctuation": self.fluctuation}


def energy_drift(
    atoms: Atoms,
    calculator: Any,
    time_step: float = 2.0,
    duration: float = 1.0,
    temperature: float = 300.0,
    seed: int = 0,
) -> Dynamics:
    """Drift of the total energy of `atoms` under velocity Verlet, with steps of `time_step` fs for `duration` ps.

    Velocities are drawn at twice `temperature` [K], half of which becomes potential energy, and the centre of mass
    rests. Direct forces are not the slope of an energy, so that their drift has no bound. Raises NonFinitePrediction
    if the trajectory blows up.
    """
    moving = atoms.copy()
    moving.calc = calculator
    masses = moving.get_masses()[:, None]
    widths = np.sqrt(2 * units.kB * temperature / masses)  # Maxwell and Boltzmann's distribution
    velocities = widths * np.random.default_rng(seed).standard_normal((len(moving), 3))
    moving.set_velocities(velocities - (masses * velocities).sum(axis=0) / masses.sum())
    dynamics = VelocityVerlet(moving, timestep=time_step * units.fs)
    n_steps = max(2, round(1e3 * duration / time_step))
    energies, temperatures = np.zeros(n_steps + 1), np.zeros(n_steps + 1)
    for step in range(n_steps + 1):
        if step:
            dynamics.run(1)
        energies[step] = 1e3 * moving.get_total_energy() / len(moving)
        temperatures[step] = moving.get_temperature()
        if not np.isfinite(energies[step]) or temperatures[step] > 1e5:
            raise NonFinitePrediction(
                f"{moving.symbols}: the dynamics blew up after {step * time_step:g} fs of {1e3 * duration:g} fs (time "
                f"step {time_step:g} fs, {temperatures[step]:.3g} K). Shorten the time step, or train the model longer."
            )
    times = np.linspace(0.0, time_step * n_steps / 1e3, n_steps + 1)
    slope, start = np.polyfit(times, energies, 1)
    spread = float(np.std(energies - slope * times - start))
    return Dynamics(
        float(slope), spread, time_step, float(times[-1]), times, np.asarray(energies - energies[0]), temperatures
    )
