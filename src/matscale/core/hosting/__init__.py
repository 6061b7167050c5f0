"""Plugins: discovery, import and calls; `matscale.core.hosting.host` is the entry point."""
