"""Small models of every architecture, found once: to choose one, the ladder builds twenty."""

from __future__ import annotations

from functools import cache

from matscale.core.hosting.host import host
from matscale.core.model.architecture import ArchitectureConfig


@cache
def rung(architecture: str, n_params: int = 10_000) -> ArchitectureConfig:
    """The configuration of about `n_params` parameters."""
    return host().architecture(architecture).ladder(n_params)
