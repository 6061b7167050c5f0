"""The contract: what every architecture must do, and a check for each symmetry that it claims.

From a test of an outside package:

    @pytest.mark.parametrize("check", matscale.testing.checks(MY_ARCHITECTURE), ids=str)
    def test_contract(check):
        check()

From anywhere else, `run_contract(architecture)` gives one result per check.
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
