"""matscale: how neural models of materials scale.

```python
import matscale

run = matscale.train(arch="schnet", params="30k", data="emt")
matscale.evaluate(run)["loss"]
```

The public names are imported at their first use, so that `import matscale` (and `matscale --help`) does not wait for
torch. docs/python.md shows all of them.
"""

from __future__ import annotations

from importlib import import_module
from inspect import isfunction
from typing import TYPE_CHECKING, Any

from matscale.core.arguments import checked
from matscale.core.hookspecs import hookimpl
from matscale.core.threads import prepare as _prepare_threads
from matscale.version import API_VERSION, __version__

if TYPE_CHECKING:
    from matscale.api import batch, compare, evaluate, plan, predict, train
    from matscale.core.data.structure import Structure
    from matscale.core.inference.load import calculator, load
    from matscale.core.scaling.fit import fit

__all__ = [
    "API_VERSION",
    "Structure",
    "__version__",
    "batch",
    "calculator",
    "compare",
    "evaluate",
    "fit",
    "hookimpl",
    "load",
    "plan",
    "predict",
    "train",
]

_prepare_threads()  # before torch is imported

_LAZY = {
    "Structure": "matscale.core.data.structure",
    "batch": "matscale.api",
    "calculator": "matscale.core.inference.load",
    "compare": "matscale.api",
    "evaluate": "matscale.api",
    "fit": "matscale.core.scaling.fit",
    "load": "matscale.core.inference.load",
    "plan": "matscale.api",
    "predict": "matscale.api",
    "train": "matscale.api",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'matscale' has no attribute {name!r}. It has {', '.join(__all__)}.")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value = checked(value, f"matscale.{name}") if isfunction(value) else value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
