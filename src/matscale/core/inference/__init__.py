"""Inference with trained models: load, predict, compare, calculator for ASE."""
