"""Answers of plugins that are kept in a file until the code that gave them changes.

Importing every architecture and building its model takes seconds of processor time, for a table that seldom changes.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from matscale.core.files import DiskError, make_folder, write_json
from matscale.core.hosting.host import Host
from matscale.core.sealing import DamagedRecord, read_sealed, sealed

STARTED = time.time_ns()
"""Time [ns] when this process imported matscale. It may run the old text of files that changed later."""


def remembered(file: Path, host: Host, ask: Callable[[], Any], is_whole: Callable[[Any], bool]) -> Any:
    """Return the JSON values that `ask` returns, from `file` if everything on which they may depend is unchanged.

    The values may depend on the plugins, their versions and which are blocked; on Python, its search path and variables
    MATSCALE_*; and on the files that were imported for the answer, the files in the packages of plugins, and the
    folders in which packages are installed. Files and folders are compared by size and time of change.

    An answer is not stored if `is_whole` returns False for it, if the file cannot be written, or if a plugin failed or
    gave a warning, which the next caller must see, too.
    """
    state = _state(host)
    kept = _read(file)
    if kept.get("state") == state and kept["files"] == _stamps(kept["files"]):
        return kept["answer"]
    with warnings.catch_warnings(record=True) as given:
        answer = ask()
    for one in given:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)
    stamps = _stamps(_files(host))
    has_failed = any(plugin.state in ("failed", "incompatible") for plugin in host.plugins)
    is_newer = any(stamp is not None and stamp[1] >= STARTED for stamp in stamps.values())
    if not (given or has_failed or is_newer) and is_whole(answer):
        try:
            make_folder(file.parent)
            write_json(file, sealed({"state": state, "files": stamps, "answer": answer}))
        except DiskError:  # without a cache, the answer is found anew each time
            return answer
    return answer


def _read(file: Path) -> dict[str, Any]:
    """Values of the file; none if there is no file or it is damaged."""
    try:
        return read_sealed(file, required=True)
    except DamagedRecord:
        return {}


def _state(host: Host) -> dict[str, Any]:
    """Everything but files on which an answer of the plugins may depend, known before any is imported."""
    plugins = [[p.entry.qualified, p.entry.version, p.entry.value, p.state == "blocked", p.asked] for p in host.plugins]
    settings = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MATSCALE_")}
    return {"python": sys.version, "path": sys.path, "settings": settings, "plugins": plugins}


def _files(host: Host) -> set[str]:
    """Files of all imported modules, files of the packages of plugins, and folders of the search path."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    found = {str(path) for module in modules if (path := vars(module).get("__file__"))}
    for package in {plugin.entry.module.partition(".")[0] for plugin in host.plugins}:
        for folder in getattr(sys.modules.get(package), "__path__", ()):
            found |= {str(path) for path in Path(folder).rglob("*") if "__pycache__" not in path.parts}
    return found | {os.path.abspath(folder) for folder in sys.path}


def _stamps(paths: Iterable[str]) -> dict[str, list[int] | None]:
    """Size and time of the last change [ns] of each file; None if it is not there."""

    def stamp(path: str) -> list[int] | None:
        try:
            found = os.stat(path)
        except OSError:
            return None
        return [found.st_size, found.st_mtime_ns]

    return {path: stamp(path) for path in paths}
