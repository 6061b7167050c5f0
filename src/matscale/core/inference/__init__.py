"""Use of trained models: load, predict, compare, calculator for ASE."""
