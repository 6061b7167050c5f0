"""Synthetic datasets: perturbed crystals with labels from a potential."""
