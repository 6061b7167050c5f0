"""Contract checks of an architecture: define a check, list all checks, run them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from matscale.core.contract.subject import ContractError, MalformedOutputs, Subject
from matscale.core.errors import OutputsError
from matscale.core.model.architecture import Architecture, ArchitectureConfig

Condition = Callable[[Subject], str | None]
"""Function that returns the reason why a check does not apply to a subject; None if it applies."""


@dataclass(frozen=True)
class Check:
    """Requirement on an architecture, with its test function."""

    name: str
    promise: str
    """Property of the architecture that the check tests."""
    run: Callable[[Subject], None]
    """Function that runs the check. Raises ContractError if the architecture fails it."""
    skip: Condition


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check."""

    name: str
    status: Literal["passed", "failed", "skipped"]
    detail: str
    """Error message of a failed check, or the reason why a check was skipped."""


@dataclass(frozen=True)
class BoundCheck:
    """Check bound to one architecture: a call runs the check, and raises an error if the architecture fails it."""

    check: Check
    subject: Subject

    def __call__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            try:
                self.check.run(replace(self.subject))  # a separate potential, so that checks do not affect one another
            except OutputsError as error:
                raise MalformedOutputs(str(error)) from None

    def __str__(self) -> str:
        return f"{self.subject.architecture.name}-{self.check.name}"


_CHECKS: list[Check] = []


def register(name: str, skip: Condition = lambda subject: None) -> Callable[[Callable[[Subject], None]], Check]:
    """Register a function as a check; the first line of its docstring states the property that it checks."""

    def add(run: Callable[[Subject], None]) -> Check:
        assert run.__doc__
        check = Check(name, run.__doc__.strip().splitlines()[0], run, skip)
        _CHECKS.append(check)
        return check

    return add


def claiming(claim: str) -> Condition:
    """Condition for a check that applies only to architectures that claim `claim`."""
    return lambda subject: None if claim in subject.claims else f"does not claim {claim}"


def all_checks() -> list[Check]:
    """All registered checks, in their order in reports."""
    return list(_CHECKS)


def checks(
    architecture: Architecture, config: ArchitectureConfig | None = None, *, tolerance: float = 1e-6
) -> list[BoundCheck]:
    """List the checks that apply to an architecture, for `pytest.mark.parametrize("check", checks(...), ids=str)`.

    `config` is the config under test; by default, that of the ladder with about 10,000 parameters. `tolerance` is the
    largest relative error of a symmetry in float64. Models with approximate symmetries (such as grids on a sphere) need
    a larger one.
    """
    subject = Subject(architecture, config or architecture.ladder(10_000), tolerance)
    return [BoundCheck(check, subject) for check in _CHECKS if check.skip(subject) is None]


def run_contract(
    architecture: Architecture, config: ArchitectureConfig | None = None, *, tolerance: float = 1e-6
) -> list[CheckResult]:
    """Run every check, even if some fail, and return their results. Arguments as for `checks`.

    Outputs of a wrong shape, dtype or device are reported once: further checks that meet them are skipped.
    """
    subject = Subject(architecture, config or architecture.ladder(10_000), tolerance)
    results: list[CheckResult] = []
    malformed = ""  # name of the first check that met malformed outputs
    for check in _CHECKS:
        try:
            results.append(_result(check, subject))
        except MalformedOutputs as found:
            detail = f"outputs are malformed, see {malformed}" if malformed else str(found)
            results.append(CheckResult(check.name, "skipped" if malformed else "failed", detail))
            malformed = malformed or check.name
    return results


def _result(check: Check, subject: Subject) -> CheckResult:
    if reason := check.skip(subject):
        return CheckResult(check.name, "skipped", reason)
    try:
        BoundCheck(check, subject)()
    except MalformedOutputs:
        raise
    except ContractError as found:
        return CheckResult(check.name, "failed", str(found))
    except Exception as error:  # any error of a plugin's model is a finding, and further checks follow
        return CheckResult(check.name, "failed", f"{type(error).__name__}: {error}")
    return CheckResult(check.name, "passed", check.promise)
