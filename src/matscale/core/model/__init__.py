"""Parts that all models share: architecture, outputs, potential, layers."""
