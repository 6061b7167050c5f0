"""Versions: of the package, of the plugin interface, of what is written to disk."""

__version__ = "0.1.0"

API_VERSION = (1, 0)
"""Plugin interface. A plugin's module may state the one it was written for: equal major, minor not above this one."""
