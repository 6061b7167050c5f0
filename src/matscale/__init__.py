"""matscale: how neural models of materials scale.

The public names are imported when they are first used, so that `import matscale` (and `matscale --help`) does not
wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from matscale.core.hookspecs import hookimpl
from matscale.core.threads import prepare as _prepare_threads
from matscale.version import API_VERSION, __version__

if TYPE_CHECKING:
    from matscale.core.inference.load import calculator, load
    from matscale.core.scaling.fit import fit

__all__ = ["API_VERSION", "__version__", "calculator", "fit", "hookimpl", "load"]

_prepare_threads()  # before torch is imported

_LAZY = {
    "load": "matscale.core.inference.load",
    "calculator": "matscale.core.inference.load",
    "fit": "matscale.core.scaling.fit",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'matscale' has no attribute {name!r}")
