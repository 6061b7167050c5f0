"""Contract of architectures: checks that every architecture must pass, and a check for each claimed symmetry.

Use in the tests of a plugin package:

    @pytest.mark.parametrize("check", matscale.testing.checks(MY_ARCHITECTURE), ids=str)
    def test_contract(check):
        check()

Elsewhere, `run_contract(architecture)` returns one result per check.
"""

from matscale.core.contract import (  # noqa: F401  (they register their checks)
    basics,
    derivatives,
    orientations,
    symmetries,
)
from matscale.core.contract.check import BoundCheck, Check, CheckResult, all_checks, checks, run_contract
from matscale.core.contract.subject import ContractError

__all__ = ["BoundCheck", "Check", "CheckResult", "ContractError", "all_checks", "checks", "run_contract"]
