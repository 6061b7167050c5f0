"""Inference with trained models: load, predict, compare with baselines, calculator for ASE."""
