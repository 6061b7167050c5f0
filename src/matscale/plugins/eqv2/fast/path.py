"""Choice between fast path and reference path for a batch, and the forward of the fast path.

Both have the same parameters and give the same numbers. The fast path has first derivatives of parameters only, which
is enough for training on direct forces and for prediction. The reference path is used otherwise: for derivatives
through the geometry, forward-mode derivatives, torch.compile, autocast, and to count FLOPs.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor
from torch.autograd.forward_ad import unpack_dual

from matscale.plugin import AtomicBatch, Outputs, Scoped, checkpoint_like, is_reference_path_wanted, sphere
from matscale.plugins.eqv2.blocks import Block
from matscale.plugins.eqv2.fast import heads
from matscale.plugins.eqv2.fast.attention import attention, edge_degree, forces
from matscale.plugins.eqv2.fast.edges import SortedEdges, sorted_edges
from matscale.plugins.eqv2.fast.feed_forward import feed_forward
from matscale.plugins.eqv2.fast.linear import radial_features

if TYPE_CHECKING:
    from matscale.plugins.eqv2.model import EqV2

Path = Literal["fast", "reference"]
_forced = Scoped[Path | None]("forced", None)


def forced(path: Path) -> AbstractContextManager[None]:
    """Context in which forward passes use `path`, for tests, benchmarks and second derivatives of parameters."""
    return _forced.set(path)


def serves(model: EqV2, data: AtomicBatch) -> bool:
    """Whether the fast path is used for this batch. Raises ValueError if it is forced but not possible."""
    if torch.compiler.is_compiling() or is_reference_path_wanted() or _forced.get() == "reference":
        return False
    reason = _obstacle(model, data)
    if reason and _forced.get() == "fast":
        raise ValueError(f"eqv2: the fast path is forced, but {reason}.")
    return reason is None


def _obstacle(model: EqV2, data: AtomicBatch) -> str | None:
    weight, positions = model.element.weight, data.positions
    if model.config.forces != "direct":
        return "forces are derivatives of the energy"
    if torch.is_grad_enabled() and (positions.requires_grad or data.cell.requires_grad):
        return "positions or cell require a gradient"
    if _transformed() or any(unpack_dual(x).tangent is not None for x in (positions, data.cell, weight)):
        return "forward-mode derivatives or transforms of torch.func need a rule for each operation"
    if name := _altered(model):
        return f"{name} has a hook, or its class was changed"
    if data.n_edges == 0:
        return "there are no edges"
    if weight.dtype not in (torch.float32, torch.float64) or positions.dtype != weight.dtype:
        return f"weights are {weight.dtype} and positions {positions.dtype}, not both float32 or both float64"
    if type(weight) is not torch.nn.Parameter or positions.device.type not in ("cpu", "cuda"):
        return "the weights are not plain parameters on a CPU or GPU"
    if torch.is_autocast_enabled(positions.device.type):
        return "autocast chooses the precision of each operation"
    return None


_OWN = ("torch.nn.modules.", f"{sphere.__name__}.", "matscale.plugins.eqv2.")


def _altered(model: EqV2) -> str | None:
    """Name of a module that has a hook or an adapter, or whose class was changed; None if there is none.

    The fast path reads only the parameters of modules, and would ignore such changes.
    """
    for name, module in model.named_modules():
        hooks = module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks
        if name and (any(hooks) or not type(module).__module__.startswith(_OWN)):
            return str(name)
    return None


def _transformed() -> bool:
    """Whether torch.func (grad, jvp, jacfwd, ...) is active, which needs a rule for every operation."""
    return torch._C._are_functorch_transforms_active()


def forward(model: EqV2, data: AtomicBatch) -> Outputs:
    """Forward of `EqV2` for batches that `serves` accepts."""
    edges = sorted_edges(model.edge_frames, data)
    layers = cast(list[Block], list(model.blocks))
    networks = [block.attention.edge_function.radial for block in layers]
    networks = [model.edge_degree.radial, *networks, model.forces.attention.edge_function.radial]
    rho = radial_features(networks, edges.edges)
    x = edge_degree(model.edge_degree, rho[0], edges) + model.embed_elements(data)
    for block, features in zip(layers, rho[1:]):
        x = checkpoint_like(block, _block, model, block, x, features, edges, data)
    return _read_out(model, model.norm(x), rho[-1], edges, data)


def _block(model: EqV2, block: Block, x: Tensor, rho: Tensor, edges: SortedEdges, data: AtomicBatch) -> Tensor:
    around = attention(block.attention, block.attention_norm(x), rho, edges, model.edge_grid)
    x = x + block.drop(around, data.batch, data.n_structures)
    within = feed_forward(block.feed_forward, block.feed_forward_norm(x), model.atom_grid)
    dropped: Tensor = block.drop(within, data.batch, data.n_structures)
    return x + dropped


def _read_out(model: EqV2, x: Tensor, rho: Tensor, edges: SortedEdges, data: AtomicBatch) -> Outputs:
    idle = model.idle_parameters()
    x = heads.Idle.apply(x, *(p for name, p in model.named_parameters() if name in idle))
    energy = heads.energy(model.energy, x, data)
    force = forces(model.forces.attention, x, rho, edges, model.edge_grid)
    if model.config.stress_head == "none":
        return Outputs(energy=energy, forces=force)
    stress = sphere.tensor_from_parts(*heads.stress(model.stress, x, edges, model.atom_grid, data))
    return Outputs(energy=energy, forces=force, stress=stress)
