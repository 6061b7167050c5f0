"""Find version conflicts that may explain why a plugin failed.

They are found in the metadata of installed distributions; nothing is imported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import InvalidRequirement, Requirement

from matscale.core.hosting.catalogue import BUILTIN, Entry, canonical

SHOWN = 3
"""Largest number of conflicts in a message. Those of the plugin itself come first."""


def conflicts(entry: Entry) -> str:
    """Describe version conflicts of a plugin, and of packages that it needs; empty if there are none.

    Call this only after a plugin has failed: a plugin that works in spite of a conflict should not be refused.
    """
    ours = {canonical(requirement.name): requirement for requirement in _needed_by(BUILTIN)}
    found = []
    for owner, requirement in _all_needed(entry):
        installed = _installed(requirement.name)
        if installed is not None and not _takes(requirement, installed):
            found.append(_sentence(owner, requirement, installed, ours.get(canonical(requirement.name))))
    return " ".join(dict.fromkeys(found[:SHOWN]))


def _sentence(owner: str, requirement: Requirement, installed: str, ours: Requirement | None) -> str:
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    fact = f"{owner} requires {wanted}, installed is {name} {installed}"
    if ours is None or not _takes(ours, installed):
        return f'{fact}: pip install "{wanted}".'
    return (
        f"{fact}, and matscale needs {name}{ours.specifier}. Look for another release of {owner}, or install {owner} "
        f"without its requirements (pip install --no-deps {owner}) if it runs with {name} {installed}."
    )


def _all_needed(entry: Entry) -> Iterator[tuple[str, Requirement]]:
    """Yield the requirements of a plugin and of all packages that it needs, as (distribution, requirement).

    Requirements of the plugin's own distribution come first.
    """
    level, seen = [(entry.distribution, requirement) for requirement in _needed(entry.requires)], set()
    while level:
        yield from level
        names = dict.fromkeys(canonical(requirement.name) for _, requirement in level)
        fresh = [name for name in names if name not in seen and _installed(name) is not None]
        seen |= set(fresh)
        level = [(name, requirement) for name in fresh for requirement in _needed_by(name)]


def _needed_by(distribution: str) -> Iterator[Requirement]:
    """Requirements of a distribution; none if the distribution is not installed.

    matscale itself is not installed if it runs from its sources.
    """
    return _needed(requires(distribution) or ()) if _installed(distribution) is not None else iter(())


def _needed(lines: Iterable[str]) -> Iterator[Requirement]:
    """Parse requirements. Those of extras, other operating systems or other versions of Python are left out."""
    for line in lines:
        try:
            requirement = Requirement(line)
        except InvalidRequirement:
            continue  # damaged metadata count as no conflict
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def _takes(requirement: Requirement, installed: str) -> bool:
    return requirement.specifier.contains(installed, prereleases=True)


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
