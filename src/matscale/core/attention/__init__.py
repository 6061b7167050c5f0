"""Attention of a trained model: weights against distance, maps and graphs, as one page. See docs/attention.md."""
