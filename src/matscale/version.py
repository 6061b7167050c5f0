"""Versions: of the package, of the plugin interface, of what is written to disk."""

__version__ = "0.1.0"

API_VERSION = (1, 0)
"""Version of the plugin interface.

A plugin may state the version it was written for: equal major, minor not above this.
"""
