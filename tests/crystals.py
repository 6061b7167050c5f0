"""Structures to pack: random, seeded, with an energy that is linear in composition."""

from __future__ import annotations

import numpy as np

from matscale.core.data.structure import Structure


def random_structures(n: int, seed: int = 0, elements: tuple[int, ...] = (8, 13, 29, 79)) -> list[Structure]:
    """Periodic, 1 to 12 atoms on a jittered grid (no two overlap), all three labels."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        n_atoms = int(rng.integers(1, 13))
        grid = np.stack(np.meshgrid(*[np.arange(3)] * 3), axis=-1).reshape(-1, 3)[:n_atoms]
        z = np.sort(rng.choice(elements, n_atoms))
        stress = rng.normal(size=(3, 3)) * 0.05
        made.append(
            Structure(
                atomic_numbers=z.astype(np.int64),
                positions=3.0 * grid + rng.uniform(-0.3, 0.3, (n_atoms, 3)),
                cell=np.eye(3) * 9 + rng.uniform(-0.3, 0.3, (3, 3)),
                pbc=np.ones(3, dtype=bool),
                energy=float(-0.1 * z.sum()),
                forces=rng.normal(size=(n_atoms, 3)),
                stress=0.5 * (stress + stress.T),
            )
        )
    return made
