"""When an operator may be called without the wrapper that offers derivatives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.forward_ad import dual_level, make_dual

from cofm_triton.ops.derivatives import wanted


def test_plain_tensors_want_none() -> None:
    assert not wanted(torch.ones(2), None)


def test_gradients() -> None:
    leaf = torch.ones(2, requires_grad=True)
    assert wanted(torch.ones(2), leaf)
    with torch.no_grad():
        assert not wanted(leaf)
    assert not wanted(leaf.detach())


def test_tangents() -> None:
    with dual_level():
        assert wanted(None, make_dual(torch.ones(2), torch.ones(2)))
    assert not wanted(torch.ones(2))


def test_transforms() -> None:
    seen: list[bool] = []

    def record(x: Tensor) -> Tensor:
        seen.append(wanted(x))
        return x.sum()

    torch.func.grad(record)(torch.ones(2))
    torch.func.vmap(record)(torch.ones(2, 2))
    torch.func.jvp(record, (torch.ones(2),), (torch.ones(2),))
    assert seen == [True, True, True]
