"""Tests that every architecture must pass: those of this package and those of plugins.

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
