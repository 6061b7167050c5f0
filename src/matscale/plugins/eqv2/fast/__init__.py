"""Fast path of EquiformerV2: the same numbers as the reference path, but only first derivatives by parameters.

`path` chooses the path and has the forward; `edge_function` takes most of the time, `so2` has its linear maps, `edges`
the order of edges in which sums over neighbours are matrix products, `attention` and `feed_forward` the rest of a
block.
"""

from __future__ import annotations

from matscale.plugins.eqv2.fast.path import forced, forward, serves

__all__ = ["forced", "forward", "serves"]
