"""Versions: of the package, of the plugin interface, of what is written to disk."""

__version__ = "0.1.0"

API_VERSION = (1, 0)
"""Plugin interface. A plugin's module may state its own `API_VERSION`; the major number must be equal and the minor not larger."""
