"""SchNet: `model` has the equations, `pairs` the sums over periodic images."""

from matscale.plugins.schnet.model import SIZES, SchNet, SchNetConfig, build, register_architectures

__all__ = ["SIZES", "SchNet", "SchNetConfig", "build", "register_architectures"]
