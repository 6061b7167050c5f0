"""Fast path of EquiformerV2: the same numbers as the reference path, but with first derivatives of parameters only.

`path` chooses between the paths and has the forward. `edge_function` takes most of the time; `so2` has the linear maps
that it uses, `edges` the order of edges in which sums over neighbours are matrix products, `attention` and
`feed_forward` the rest of a block.
"""

from __future__ import annotations

from matscale.plugins.eqv2.fast.path import forced, forward, serves

__all__ = ["forced", "forward", "serves"]
