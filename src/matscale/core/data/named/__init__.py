"""Datasets with a name: made on first use, or downloaded."""
