"""SevenNet-0 as a labeler: surrogate data over the periodic table, with the weights of the package `sevenn`.

Park et al., J. Chem. Theory Comput. 20, 4857 (2024), arXiv:2402.03789. The checkpoint of July 2024 ("7net-0"), trained
on the relaxation trajectories of the Materials Project (PBE/PBE+U); float32.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from matscale.plugin import MPTRJ_ELEMENTS, Labeler, hookimpl, needs_package

MODEL = "7net-0_11Jul2024"


@cache
def calculator() -> Any:
    """Make a SevenNet-0 calculator on the CPU, once per process.

    One calculator serves all structures, since its results do not depend on earlier structures.
    """
    with warnings.catch_warnings():
        # The package warns of missing GPU kernels, and compiles activations in a deprecated way.
        warnings.filterwarnings("ignore", "No tensor product accelerator", UserWarning)
        warnings.filterwarnings("ignore", message=".*torch.jit.*", category=DeprecationWarning)
        with needs_package("sevenn"):
            from sevenn.calculator import SevenNetCalculator  # optional: sevenn
        return SevenNetCalculator(MODEL, device="cpu")


@hookimpl
def register_labelers() -> list[Labeler]:
    return [
        Labeler(
            name="sevennet",
            summary="SevenNet-0: 89 elements, surrogate of PBE/PBE+U (pip install 'matscale[labelers]').",
            reference="arXiv:2402.03789",
            calculator=calculator,
            tag=f"sevennet {MODEL}",
            elements=MPTRJ_ELEMENTS,
        )
    ]
