"""The norm of EScAIP has a backward of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from matscale.plugins.escaip.norm import RMSNorm


def norm(x: Tensor, weight: Tensor) -> Tensor:
    module = RMSNorm(weight.shape[0]).double()
    return torch.func.functional_call(module, {"weight": weight}, (x,))


def test_the_norm_is_x_over_its_root_mean_square_and_its_slopes_are_those_of_differences() -> None:
    torch.manual_seed(0)
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 4, 5), (5,)))
    expected = x / x.square().mean(-1, keepdim=True).sqrt() * weight
    torch.testing.assert_close(norm(x, weight), expected)
    assert torch.autograd.gradcheck(norm, (x, weight))
    assert torch.autograd.gradgradcheck(norm, (x, weight))


def test_the_backward_of_few_passes_is_that_of_the_plain_operations() -> None:
    torch.manual_seed(1)
    x, g = torch.randn(6, 7, 8, dtype=torch.float64), torch.randn(6, 7, 8, dtype=torch.float64)
    weight = torch.randn(8, dtype=torch.float64)
    found = [t.clone().requires_grad_() for t in (x, weight)]
    norm(*found).backward(g)
    plain = [t.clone().requires_grad_() for t in (x, weight)]
    eps = torch.finfo(torch.float64).eps
    (plain[0] * (plain[0].square().mean(-1, keepdim=True) + eps).rsqrt() * plain[1]).backward(g)
    for a, b in zip(found, plain):
        torch.testing.assert_close(a.grad, b.grad)
