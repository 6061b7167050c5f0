"""Versions of the package and of the plugin interface."""

__version__ = "0.1.0"

API_VERSION = (1, 0)
"""Version of the plugin interface: (major, minor).

A plugin may state the version for which it was written. The major number must be the same as here, and the minor number
must not be larger.
"""
