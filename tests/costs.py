"""FLOPs of runs that cost the same are counted once, and the peak of the machine is measured once.

Both together take most of the time of a tiny training.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from matscale.core.flops import Cost, Peak, peak_of
from matscale.core.hosting.host import host
from matscale.core.train import session

_counted: dict[Any, Cost] = {}
_cost_of_setup = session.cost_of_setup
_peak_of_cpu = cache(peak_of)


def peak_once(device: torch.device, precision: str) -> Peak:
    """The peak of a device, measured once for a CPU."""
    return (_peak_of_cpu if device.type == "cpu" else peak_of)(device, precision)


def cost_once(setup: Any, potential: Any, device: torch.device) -> Cost:
    """The cost of a run, counted unless one with equal modules, tensors, settings, structures and formula was."""
    session.probes_of_setup(setup, device)  # what is read is read, and may be damaged
    key = (
        tuple((name, type(module)) for name, module in potential.named_modules()),
        tuple((name, value.shape, value.dtype) for name, value in potential.state_dict().items()),
        repr((setup.model_config, setup.graph, setup.config.compute, setup.config.pretrain, potential.derive, device)),
        (setup.dataset.hash, setup.train.tobytes()),
        (host(), setup.architecture.step_flops),
    )
    if key not in _counted:
        _counted[key] = _cost_of_setup(setup, potential, device)
    return _counted[key]
