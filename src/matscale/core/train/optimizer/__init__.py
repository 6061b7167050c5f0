"""Optimizer of a training: AdamW, learning rate, weight average, and the batches of each step."""
