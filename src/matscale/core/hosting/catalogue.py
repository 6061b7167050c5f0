"""Catalogue of the installed plugins.

It is read from the metadata of the installed distributions (Python packages); no plugin is imported.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import Distribution, EntryPoint, distributions
from importlib.util import find_spec
from pathlib import Path

GROUP = "matscale"
"""Group of entry points by which distributions declare plugins."""
BUILTIN = "matscale"
"""Distribution with the built-in plugins."""


@dataclass(frozen=True)
class Entry:
    """Entry point of a plugin: its name, its module and its distribution."""

    name: str
    distribution: str
    version: str
    value: str
    """Module of the plugin, as `module` or `module:attribute`."""
    requires: tuple[str, ...] = ()
    """Requirements of the distribution, including those of its extras."""
    fault: str = ""
    """Reason why the entry point cannot be used: damaged metadata. Empty if there is none."""

    @property
    def builtin(self) -> bool:
        return canonical(self.distribution) == BUILTIN

    @property
    def qualified(self) -> str:
        """Name `distribution:name`, unique even if two distributions have plugins of the same name."""
        return f"{self.distribution}:{self.name}"

    @property
    def module(self) -> str:
        return self.value.partition(":")[0].partition("[")[0].strip()  # without attribute and extras


def canonical(distribution: str) -> str:
    """Canonical spelling of the name of a distribution (PyPA, "Names and normalization").

    >>> canonical("Matscale_PaiNN")
    'matscale-painn'
    """
    return re.sub(r"[-_.]+", "-", distribution).lower()


def discover(path: list[str] | None = None) -> list[Entry]:
    """Find all plugins on `path` (default: sys.path): built-in ones first, then by distribution and name.

    A distribution that is installed twice (an editable install over a released one, remains of a failed upgrade) counts
    once: the first copy on the path with readable metadata is used.
    """
    copies: dict[str, list[tuple[bool, list[Entry]]]] = {}
    for distribution in distributions(path=path) if path is not None else distributions():
        text = distribution.read_text("entry_points.txt") or ""
        if not re.search(rf"^\s*\[\s*{GROUP}\s*\]", text, re.MULTILINE):
            continue  # parsing only entries of matscale is fast, and ignores faults of other packages
        name, version, complete = _identity(distribution)
        copies.setdefault(canonical(name), []).append((complete, _entries(distribution, name, version)))
    chosen = [max(found, key=lambda copy: copy[0])[1] for found in copies.values()]  # max keeps the first of equals
    return sorted((entry for entries in chosen for entry in entries), key=_order)


def _order(entry: Entry) -> tuple[bool, str, str]:
    return (not entry.builtin, canonical(entry.distribution), entry.name)


def _identity(distribution: Distribution) -> tuple[str, str, bool]:
    """Read the name and version of a distribution, and whether they come from its metadata.

    Without metadata, they come from the name of the folder.
    """
    try:
        metadata = distribution.metadata.json
        name, version = str(metadata.get("name", "")), str(metadata.get("version", ""))
    except Exception:  # a missing METADATA file: importlib.metadata raises differently from version to version
        name = version = ""
    if name and version:
        return name, version, True
    folder = Path(str(getattr(distribution, "_path", "unknown"))).stem
    guessed, _, rest = folder.partition("-")
    return guessed.lstrip("~") or "unknown", rest or "unknown", False


def _entries(distribution: Distribution, name: str, version: str) -> list[Entry]:
    try:
        lines: Iterable[EntryPoint] = [e for e in distribution.entry_points if e.group == GROUP]
        requires = tuple(distribution.requires or ())
    except Exception as error:
        fault = f"its entry_points.txt cannot be read ({type(error).__name__}: {error}); reinstall {name}"
        return [Entry(name, name, version, "", fault=fault)]
    unique = {e.name: Entry(e.name, name, version, e.value, requires) for e in lines}
    return list(unique.values())


_HOOK = re.compile(r"^@(?:\w+\.)?hookimpl\b[^\n]*\n(?:async )?def (\w+)", re.MULTILINE)


def declared_hooks(entry: Entry) -> list[str] | None:
    """Names of the hooks that a plugin implements, found in the source text of its module.

    None if the text does not show them. Shell completion and listing use this function, because they must not import
    plugins.
    """
    try:
        spec = _spec(entry.module)
        origin = Path(spec.origin) if spec and spec.origin else None
        if origin is None or origin.suffix != ".py":
            return None
        hooks = _HOOK.findall(origin.read_text(encoding="utf-8"))
    except (OSError, ValueError, ImportError):
        return None
    return hooks or ([] if origin.name != "__init__.py" else None)  # a package may import its hooks from its modules


def _spec(module: str) -> ModuleSpec | None:
    """Find a module like an import does, but without importing the packages that contain it."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    name = top
    for part in rest:
        if spec is None:
            return None
        name = f"{name}.{part}"
        spec = PathFinder.find_spec(name, list(spec.submodule_search_locations or ()))
    return spec
