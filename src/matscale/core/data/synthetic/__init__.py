"""Synthetic datasets: crystals, perturbed and labelled by a potential."""
