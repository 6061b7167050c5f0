"""How plugins are found, imported and asked; `matscale.core.manager` is the door to it."""
