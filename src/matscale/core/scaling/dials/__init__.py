"""Laws of hyperparameters, here called dials: best learning rate and batch size as functions of size and data."""
