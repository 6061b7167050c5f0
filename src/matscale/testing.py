"""Tests that every architecture must pass, whether it is built in or comes from a plugin.

A test file of a plugin:

    import pytest
    from matscale.testing import checks
    from my_package import MY_ARCHITECTURE

    @pytest.mark.parametrize("check", checks(MY_ARCHITECTURE), ids=str)
    def test_contract(check):
        check()

Structures, datasets and a training are here for its other tests: `crystal()`, `ShardWriter`, `train`.
"""

from matscale.core.contract import CheckResult, ContractError, checks, run_contract
from matscale.core.contract.structures import crystal, metal, molecule, slab, structure, supercell
from matscale.core.contract.subject import Subject
from matscale.core.data.store.packed import PackedDataset
from matscale.core.data.store.writer import ShardWriter
from matscale.core.data.structure import voigt_to_full
from matscale.core.errors import StoppedEarly
from matscale.core.flops import Probes, cost_of
from matscale.core.progress import Reporter
from matscale.core.runs import checkpoint
from matscale.core.runs.config import TrainConfig
from matscale.core.train.session import train
from matscale.core.train.setup import resolved

__all__ = [
    "CheckResult",
    "ContractError",
    "PackedDataset",
    "Probes",
    "Reporter",
    "ShardWriter",
    "StoppedEarly",
    "Subject",
    "TrainConfig",
    "checkpoint",
    "checks",
    "cost_of",
    "crystal",
    "metal",
    "molecule",
    "resolved",
    "run_contract",
    "slab",
    "structure",
    "supercell",
    "train",
    "voigt_to_full",
]
