"""Does molecular dynamics with a trained model conserve energy? Drift of the total energy, run by run.

    python benchmarks/nve.py RUN [RUN ...] [--temperatures 300 600] [--ps 2] [--dt 2] [--json FILE]

For each run folder, velocity Verlet (ASE) at constant energy of Cu3Al, 2 × 2 × 2 fcc cells with 32 atoms, from the same
rattled positions and velocities. The total energy per atom over time is fitted by a straight line: its slope is the
drift, what is left around it the fluctuation, which any integrator has. The first row is EMT itself, from which the
runs learnt: the drift of the integrator alone. A run whose temperature passes 5000 K has exploded and is stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md.velocitydistribution import Stationary
from ase.md.verlet import VelocityVerlet
from machine import machine

import matscale

LATTICE = 3.72
"""Å; Cu3Al without pressure in EMT, at rest."""
TOO_HOT = 5000.0
"""K"""


def crystal(temperature: float) -> Atoms:
    """Cu3Al with thermal displacements and velocities; seeded. Half of twice the energy ends up in the positions."""
    atoms = bulk("Cu", "fcc", a=LATTICE, cubic=True).repeat(2)
    atoms.symbols[::4] = "Al"
    rng = np.random.default_rng(0)
    atoms.rattle(0.05, rng=rng)
    spread = np.sqrt(atoms.get_masses() * units.kB * 2 * temperature)  # of each momentum, Maxwell and Boltzmann's
    atoms.set_momenta(rng.standard_normal((len(atoms), 3)) * spread[:, None])
    Stationary(atoms)
    return atoms


def simulate(calculator: Any, temperature: float, ps: float, dt: float) -> dict[str, float | None]:
    """Dynamics over `ps` picoseconds in steps of `dt` fs. Energies in meV/atom.

    Drift and fluctuation are None for a run that exploded before there were points enough for a line and what is left.
    """
    atoms = crystal(temperature)
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, timestep=dt * units.fs)
    energies, temperatures = [], []
    start = time.perf_counter()
    for _ in range(round(1000 * ps / dt) + 1):  # also the energy at the start
        if not atoms.get_temperature() < TOO_HOT:
            break
        energies.append(1000 * atoms.get_total_energy() / len(atoms))
        temperatures.append(atoms.get_temperature())
        dynamics.run(1)
    seconds = (time.perf_counter() - start) / len(energies)
    t = np.arange(len(energies)) * dt / 1000
    drift, fluctuation = None, None
    if len(energies) > 2:
        slope, level = np.polyfit(t, energies, 1)
        drift, fluctuation = float(slope), float(np.std(np.array(energies) - slope * t - level))
    return {
        "temperature": temperature,
        "ps": float(t[-1]),
        "drift": drift,
        "fluctuation": fluctuation,
        "change": energies[-1] - energies[0],
        "mean_temperature": float(np.mean(temperatures)),
        "seconds_per_step": seconds,
    }


def force_error(calculator: Any, temperature: float) -> float:
    """Mean absolute error of the forces of EMT in the first picture, meV/Å."""
    found, expected = crystal(temperature), crystal(temperature)
    found.calc, expected.calc = calculator, EMT()
    return 1000 * float(np.abs(found.get_forces() - expected.get_forces()).mean())


def shown(value: float | None, form: str) -> str:
    return "none" if value is None else format(value, form)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders that know Cu and Al")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 600.0], help="K")
    parser.add_argument("--ps", type=float, default=2.0, help="picoseconds of each simulation")
    parser.add_argument("--dt", type=float, default=2.0, help="femtoseconds of a step")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    calculators = {"EMT": EMT(), **{run.name: matscale.calculator(run) for run in arguments.runs}}
    rows = []
    print(f"{machine()}; torch {torch.__version__}, 1 thread\n")
    print(
        "| run | K | ps | drift, meV/atom/ps | fluctuation, meV/atom | change, meV/atom | mean K | force error, meV/Å "
        "| ms a step |\n" + 9 * "|---" + "|"
    )
    for temperature in arguments.temperatures:
        for name, calculator in calculators.items():
            row = simulate(calculator, temperature, arguments.ps, arguments.dt)
            row["force_error"] = force_error(calculator, temperature)
            rows.append({"run": name, **row})
            line, left = shown(row["drift"], "+.3g"), shown(row["fluctuation"], ".2g")
            print(
                f"| {name} | {temperature:g} | {row['ps']:.2f} | {line} | {left} | {row['change']:+.2g} | "
                f"{row['mean_temperature']:.0f} | {row['force_error']:.0f} | {1000 * row['seconds_per_step']:.0f} |",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
