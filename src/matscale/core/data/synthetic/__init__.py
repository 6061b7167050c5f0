"""Datasets made from nothing: crystals, perturbed and labelled by a potential."""
