"""Parameters that the outputs do not depend on, kept because the published models have them.

The energy is read from scalars, and a feed-forward network makes its scalars from scalars: the grid branch of the
energy head is idle. The head of the forces is an attention layer of which only l = 1 is read. Where forces are
gradients, nothing but scalars is read after the last block, which idles whatever in it makes l > 0.

Their gradients are zeros, not missing: an optimizer with weight decay treats them as fairchem's does.
"""

from __future__ import annotations

from matscale.plugins.eqv2.config import EqV2Config

_GRID_BRANCH = ("expand.weight", "expand.bias", *(f"pointwise.{layer}.weight" for layer in (0, 2, 4)))


def idle_parameters(config: EqV2Config) -> frozenset[str]:
    """Their names in the model."""
    idle = {f"energy.feed_forward.{name}" for name in _GRID_BRANCH}
    if config.forces == "direct":
        idle.add("forces.attention.project.bias")
        idle |= {f"forces.attention.edge_function.conv2.m.{m}.weight" for m in range(1, config.mmax)}
        if config.stress_head == "rank2" and config.norm == "layer_norm_sh":
            idle.add("stress.harmonics_norm.scalars.weight")  # LayerNorm of one channel is its bias
        return frozenset(idle)
    last = f"blocks.{config.n_layers - 1}"
    idle |= {f"{last}.feed_forward.{name}" for name in _GRID_BRANCH}
    idle |= {f"{last}.attention.edge_function.conv2.m.{m}.weight" for m in range(config.mmax)}
    if config.norm == "layer_norm_sh":
        idle |= {f"{last}.feed_forward_norm.weight", "norm.weight"}
    return frozenset(idle)
