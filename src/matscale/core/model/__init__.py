"""What is shared by all models: architecture, outputs, potential, layers."""
