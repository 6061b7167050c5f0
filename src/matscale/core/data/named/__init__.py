"""Datasets by name: made on first use, or downloaded."""
