"""Properties of crystals that a model predicts: each is a function of a structure and an ASE calculator."""
