"""What a model measures on data before its first step, such as factors that keep the variance of its activations.

A model that needs this has a method `prepare(batches)`. It is called once, before the first step of a run, with a few
training batches; what it finds it keeps in buffers, which are saved with the weights. A run that goes on, and a branch,
have them already. A run that begins with the weights of another one is asked as well: what is there should stay.
"""

from __future__ import annotations

from itertools import islice

import torch

from matscale.core.model.potential import Potential
from matscale.core.train.distributed import World
from matscale.core.train.setup import Setup

N_BATCHES = 4


def prepare_model(potential: Potential, setup: Setup, device: torch.device) -> None:
    """Call the model's `prepare`, if it has one, with the first batches of the run as a single process sees them."""
    prepare = getattr(potential.model, "prepare", None)
    if prepare is not None:
        batches = islice(setup.training_loader(World()).epoch(0), N_BATCHES)
        with torch.no_grad():
            prepare([batch.to(device) for batch in batches])
