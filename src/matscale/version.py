"""Versions of the package and of the plugin interface."""

__version__ = "0.1.0"

API_VERSION = (1, 0)
"""Version of the plugin interface.

A plugin may state the version that it was written for. It must have the same major number, and no larger minor number.
"""
