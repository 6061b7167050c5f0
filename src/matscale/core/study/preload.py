"""Import in advance what every training needs, for a server that forks trainings."""

from __future__ import annotations

from importlib import import_module

from matscale.core.hosting.host import host

MODULES = (
    "matscale.core.train.session",
    "matscale.core.data.named.catalog",
    "safetensors.torch",
    "scipy.optimize",
    "torch._dynamo",
)
"""Modules that every training imports at some time; the last one is imported with its first optimizer."""


def preload_training() -> None:
    """Import all modules that trainings need, including the architectures of matscale."""
    for module in MODULES:
        import_module(module)
    for plugin in host().plugins:
        if plugin.entry.builtin:
            plugin.load()
