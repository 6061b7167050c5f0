"""CHGNet as a labeler: surrogate data over the periodic table, with the weights of the package `chgnet`.

Deng et al., Nat. Mach. Intell. 5, 1031 (2023), arXiv:2302.14231. Version 0.3.0 of the model (412,525 parameters),
trained on PBE/PBE+U relaxation trajectories of the Materials Project; float32, so that energies have a relative
precision of 1e-6.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterator
from functools import cache
from typing import Any

from matscale.plugin import MPTRJ_ELEMENTS, Labeler, hookimpl, needs_package

MODEL = "0.3.0"


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Context that keeps CHGNet from printing its size and device to stdout, where results go."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


@cache
def _model() -> Any:
    with needs_package("chgnet"):
        from chgnet.model import CHGNet  # optional: chgnet
    with _silence():
        return CHGNet.load(model_name=MODEL, use_device="cpu", verbose=False)


def calculator() -> Any:
    """Make a CHGNet calculator on the CPU; the weights are read once per process."""
    model = _model()
    from chgnet.model.dynamics import CHGNetCalculator  # optional: chgnet

    class QuietCHGNet(CHGNetCalculator):
        def calculate(self, *args: Any, **kwargs: Any) -> None:
            # The package causes one warning per graph by a conversion.
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True", UserWarning)
                super().calculate(*args, **kwargs)

    with _silence():
        return QuietCHGNet(model=model, use_device="cpu", on_isolated_atoms="ignore")


@hookimpl
def register_labelers() -> list[Labeler]:
    return [
        Labeler(
            name="chgnet",
            summary="CHGNet 0.3.0: 89 elements, surrogate of PBE/PBE+U (pip install 'matscale[labelers]').",
            reference="arXiv:2302.14231",
            calculator=calculator,
            tag=f"chgnet-{MODEL}",
            elements=MPTRJ_ELEMENTS,
        )
    ]
