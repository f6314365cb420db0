"""Derivatives of a function, to second order, in reverse and in forward mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import jvp

Function = Callable[..., Any]


def check_by_differences(run: Function, inputs: Sequence[Tensor], fast: bool = False, **options: bool) -> None:
    """Against finite differences: a hundred calls. `fast`: of one random direction; `options` are of `gradcheck`."""
    options = {"check_batched_grad": True, **options}
    assert gradcheck(run, inputs, check_forward_ad=True, fast_mode=fast, **options)
    assert gradgradcheck(run, inputs, fast_mode=fast)


def check_alike(run: Function, known: Function, inputs: Sequence[Tensor]) -> None:
    """Against the same function on another backend, whose derivatives finite differences have shown to be right.

    It takes some ten calls: Triton's interpreter makes ten a second.
    """
    torch.testing.assert_close(_derivatives(run, inputs), _derivatives(known, [_on_cpu(each) for each in inputs]))


def _on_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().requires_grad_()


def _derivatives(run: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Results, gradients of a weighted sum of squares, those of their own squares, the derivative in one direction."""
    results = _tuple(run(*inputs))
    weights = [_like(result, seed) for seed, result in enumerate(results)]
    first = grad([r * r for r in results], inputs, weights, create_graph=True)
    squares = torch.stack([(g * g.conj()).real.sum() for g in first]).sum()
    tangents = tuple(_like(each, 9 + seed) for seed, each in enumerate(inputs))
    tangent = _tuple(jvp(run, tuple(each.detach() for each in inputs), tangents)[1])
    return [each.detach().cpu() for each in (*results, *first, *grad(squares, inputs), *tangent)]


def _tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (results,) if isinstance(results, Tensor) else results


def _like(tensor: Tensor, seed: int) -> Tensor:
    """The same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype).to(tensor.device)
