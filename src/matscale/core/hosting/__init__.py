"""Plugins: find them, import them, call them. Start reading at `matscale.core.hosting.host`."""
