"""Size ladder through a few shapes: all their fields grow together, and three settings are fine dials."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from itertools import pairwise, product
from typing import Any, Protocol

from matscale.core.model.architecture import steps_between


class Shape(Protocol):
    """Named tuple of the fields of a configuration that grow along a ladder; one of them is `edge_channels`."""

    @property
    def edge_channels(self) -> int: ...

    def __hash__(self) -> int: ...

    def _asdict(self) -> dict[str, Any]: ...

    def config(self, **options: object) -> Any:
        """Make the configuration of the shape, with further `options`."""


class SizeLadder:
    """Ladder through the shapes `anchors`, which grow. `total` counts the parameters of a configuration.

    `width` is the field that is a fine dial besides the edge channels.
    """

    def __init__(self, anchors: tuple[Shape, ...], total: Callable[[Any], int], width: str) -> None:
        self.anchors, self.total, self.width = anchors, total, width
        self.shape: Any = type(anchors[0])
        self.count = lru_cache(maxsize=4096)(lambda shape: total(shape.config()))
        """Number of parameters of a shape."""

    @cached_property
    def rungs(self) -> tuple[Shape, ...]:
        """Shapes of the ladder, which change one field at a time."""
        fields = [list(anchor._asdict().values()) for anchor in self.anchors]
        return (self.anchors[0], *(self.shape(*shape) for a, b in pairwise(fields) for shape in steps_between(a, b)))

    def closest(self, n_params: int) -> Any:
        """Choose the configuration of the rung whose number of parameters is closest to `n_params`.

        If it is off by more than 2 %, the width and the edge channels are adjusted; if they change too much, the number
        of Gaussians.
        """
        above = bisect_left(self.rungs, n_params, key=self.count)
        shape = self._nearest(self.rungs[max(above - 1, 0) : above + 1], n_params)
        if not self._is_near(shape, n_params):
            widths = range(1, 2 * getattr(shape, self.width) + 1)
            edges = range(max(shape.edge_channels - 1, 2), shape.edge_channels + 2)
            fields = shape._asdict()
            near = ({**fields, self.width: w, "edge_channels": e} for w, e in product(widths, edges))
            shape = self._nearest((self.shape(**changed) for changed in near), n_params)
        config = shape.config()
        if self._is_near(shape, n_params):
            return config
        each = self.count(shape) - self.total(shape.config(n_radial=config.n_radial - 1))
        n_radial = config.n_radial + round((n_params - self.count(shape)) / each)
        return shape.config(n_radial=max(n_radial, 2))

    def _nearest(self, shapes: Iterable[Shape], n_params: int) -> Shape:
        return min(shapes, key=lambda shape: abs(self.count(shape) - n_params))

    def _is_near(self, shape: Shape, n_params: int) -> bool:
        return bool(abs(self.count(shape) / n_params - 1) <= 0.02)
