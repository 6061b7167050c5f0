r"""Layers of models whose features are functions on the sphere, shared by EquiformerV2, EquiformerV3 and eSEN.

Plugins reach it as `from matscale.plugin import sphere`. An atom has K = (lmax+1)² coefficients with C channels,
[n_atoms, K, C], degree-major; on an edge, K_r of them with |m| ≤ mmax, [n_edges, K_r, C], order-major.

    coefficients   orders of the coefficients (`degrees`, `orders`, `kept`), `spherical_harmonics`
    rotation       `EdgeRotation`: edge vectors -> Wigner matrices [n_edges, K_r, K], smooth, also along the polar axis
    charts         `ChartPassage`: makes an activation on a coarse grid smooth where the frame of an edge changes
    edges          `EdgeFrames`: batch -> `Edges`, with Gaussians, envelope, rotations; sums and softmax over neighbours
    radial         `RadialNetwork`: edges -> weights; `EdgeDegree`: their sums over neighbours, [n_atoms, K, C]
    convolution    `SO2Convolution`: [n_edges, K_r, C] -> [n_edges, K_r, C'], and additional scalars
    linear         `SO3Linear`: [n, K, C] -> [n, K, C'], a matrix for each degree
    grid           `SphereGrid`: coefficients -> values on a grid (product of any shape, or Lebedev), and back
    activation     `separable_s2` on a grid, `Gate` by scalars, `smooth_leaky` for scores of attention
    norm           `make_norm`: `layer_norm_sh`, `layer_norm`, `rms_norm_sh` (one scale for all degrees: merged norm)
    dropout        `Drop`: of contributions to whole structures, and of channels
    tensor         symmetric tensors from l = 0 and l = 2 (`tensor_from_parts`), and back
    block          `Block`: attention and feed-forward network, each on a norm of the features
    config         `SphereConfig`: what options that all models have demand of each other, and the claims
    ladder         `SizeLadder`: sizes between and beyond the published ones
    counts         rows of FLOPs and parameters for all of these
"""

from matscale.core.model.sphere import counts
from matscale.core.model.sphere.activation import Gate, separable_s2, smooth_leaky
from matscale.core.model.sphere.block import Block
from matscale.core.model.sphere.charts import ChartPassage, Passage
from matscale.core.model.sphere.coefficients import MAX_DEGREE, degrees, kept, orders, spherical_harmonics
from matscale.core.model.sphere.config import SphereConfig
from matscale.core.model.sphere.convolution import SO2Convolution
from matscale.core.model.sphere.dropout import Drop
from matscale.core.model.sphere.edges import EdgeFrames, Edges, WideGaussians
from matscale.core.model.sphere.grid import LEBEDEV, GridKind, SphereGrid, check_resolution, sphere_points
from matscale.core.model.sphere.ladder import SizeLadder
from matscale.core.model.sphere.linear import SO3Linear
from matscale.core.model.sphere.norm import make_norm
from matscale.core.model.sphere.radial import EdgeDegree, RadialNetwork, start_small, with_elements
from matscale.core.model.sphere.rotation import EdgeRotation, wigner
from matscale.core.model.sphere.tensor import TENSORS, parts_from_tensor, tensor_from_parts

__all__ = [
    "LEBEDEV",
    "MAX_DEGREE",
    "TENSORS",
    "Block",
    "ChartPassage",
    "Drop",
    "EdgeDegree",
    "EdgeFrames",
    "EdgeRotation",
    "Edges",
    "Gate",
    "GridKind",
    "Passage",
    "RadialNetwork",
    "SO2Convolution",
    "SO3Linear",
    "SizeLadder",
    "SphereConfig",
    "SphereGrid",
    "WideGaussians",
    "check_resolution",
    "counts",
    "degrees",
    "kept",
    "make_norm",
    "orders",
    "parts_from_tensor",
    "separable_s2",
    "smooth_leaky",
    "sphere_points",
    "spherical_harmonics",
    "start_small",
    "tensor_from_parts",
    "wigner",
    "with_elements",
]
