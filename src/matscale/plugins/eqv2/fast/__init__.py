"""The fast path of EquiformerV2: the numbers of the readable one with first derivatives of the parameters only.

`path` chooses and has the forward, `edge_function` is where the time goes, `so2` its linear maps, `edges` the order of
edges in which sums over neighbours are matrix products, `attention` and `feed_forward` the rest of a block.
"""

from __future__ import annotations

from matscale.plugins.eqv2.fast.path import forced, forward, serves

__all__ = ["forced", "forward", "serves"]
