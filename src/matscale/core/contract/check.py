"""Contract checks of an architecture: definition of a check, the list of all checks, and running them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from matscale.core.contract.subject import ContractError, Subject
from matscale.core.model.architecture import Architecture, ArchitectureConfig

Condition = Callable[[Subject], str | None]
"""Subject -> reason why the check does not apply to it, or None if it does."""


@dataclass(frozen=True)
class Check:
    """One requirement on an architecture."""

    name: str
    promise: str
    """Property of the architecture that holds when the check passes."""
    run: Callable[[Subject], None]
    """Function that runs the check. Raises ContractError with what was found."""
    skip: Condition


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    detail: str
    """Finding of a failed check, or the reason why a check was skipped."""


@dataclass(frozen=True)
class BoundCheck:
    """A check of one architecture, to be called by a test: returns or raises."""

    check: Check
    subject: Subject

    def __call__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.check.run(replace(self.subject))  # a potential of its own: what a check does to it harms no other

    def __str__(self) -> str:
        return f"{self.subject.architecture.name}-{self.check.name}"


_CHECKS: list[Check] = []


def register(name: str, skip: Condition = lambda subject: None) -> Callable[[Callable[[Subject], None]], Check]:
    """Put a function into the list of checks; the first line of its docstring is the promise."""

    def add(run: Callable[[Subject], None]) -> Check:
        assert run.__doc__
        check = Check(name, run.__doc__.strip().splitlines()[0], run, skip)
        _CHECKS.append(check)
        return check

    return add


def claiming(claim: str) -> Condition:
    """Condition that an architecture claims `claim`."""
    return lambda subject: None if claim in subject.claims else f"does not claim {claim}"


def all_checks() -> list[Check]:
    """Every registered check, in the order in which they are best read."""
    return list(_CHECKS)


def checks(
    architecture: Architecture, config: ArchitectureConfig | None = None, *, tolerance: float = 1e-6
) -> list[BoundCheck]:
    """Checks that apply to an architecture, for `pytest.mark.parametrize("check", checks(...), ids=str)`.

    `config`: the one to check; by default that of the ladder with about 10,000 parameters. `tolerance`: largest
    relative error of a symmetry in float64; more for models that keep one only approximately (grids on a sphere).
    """
    subject = Subject(architecture, config or architecture.ladder(10_000), tolerance)
    return [BoundCheck(check, subject) for check in _CHECKS if check.skip(subject) is None]


def run_contract(
    architecture: Architecture, config: ArchitectureConfig | None = None, *, tolerance: float = 1e-6
) -> list[CheckResult]:
    """Run every check, whatever the results of the others. Arguments as for `checks`."""
    subject = Subject(architecture, config or architecture.ladder(10_000), tolerance)
    return [_result(check, subject) for check in _CHECKS]


def _result(check: Check, subject: Subject) -> CheckResult:
    if reason := check.skip(subject):
        return CheckResult(check.name, "skipped", reason)
    try:
        BoundCheck(check, subject)()
    except ContractError as found:
        return CheckResult(check.name, "failed", str(found))
    except Exception as error:  # whatever a plugin's model raises is a finding about it, not the end of the battery
        return CheckResult(check.name, "failed", f"{type(error).__name__}: {error}")
    return CheckResult(check.name, "passed", check.promise)
