"""Tests that every architecture must pass, whether it is built in or comes from a plugin.

A test file of a plugin:

    import pytest
    from matscale.testing import checks
    from my_package import MY_ARCHITECTURE

    @pytest.mark.parametrize("check", checks(MY_ARCHITECTURE), ids=str)
    def test_contract(check):
        check()
"""

from matscale.core.contract import CheckResult, ContractError, checks, run_contract

__all__ = ["CheckResult", "ContractError", "checks", "run_contract"]
