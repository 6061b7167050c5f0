"""Laws of the dials of a training: learning rate and batch, by size and data."""
