"""How plugins are found, imported and asked; `matscale.core.hosting.host` is the door to it."""
