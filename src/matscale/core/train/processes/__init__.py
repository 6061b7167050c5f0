"""Several processes that train one run: how they are started, meet, and sum their gradients."""
