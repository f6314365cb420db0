"""The linear recurrence over ranks: one affine summary per channel and sequence, one collective each way.

A slice of time does `s -> A s + b` to the state s that enters it, A the product of its decays and b the state in which
it ends from zero. Every rank forms both, all of them are gathered, and each rank runs its slice again from the state

    s[0] = sum of the ranks' h0,   s[k+1] = A[k] s[k] + b[k] + jump[k]

Outputs are the states h, `last = s[n]` on all ranks, and `start = s[k]`. The adjoint is the same computation in the
opposite order: gradients of h are its input, those of `last`, summed over ranks, its h0, and that of `start` its jump.
That closes the operator under differentiation. The products are kept, so that a backward pass sends no more than ends.
The decay may also be a matrix of 2 x 2 numbers for every pair of channels and step: then A is one for every pair.

Each direction of a pass takes two scans of a slice, and sends per rank, in numbers of the state's dtype:

    forward     A: D (gates: B D, matrices: 2 B D), b and h0: 2 B D
    backward    2 B D

A second derivative goes through forward passes: it sends as they do.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofm_triton.distributed.ranks import Ranks
from cofm_triton.ops.dtypes import complex_state_dtype, state_dtype
from cofm_triton.ops.linear_scan import linear_scan_backward_op, linear_scan_op
from cofm_triton.ops.pair_scan import pair_scan
from cofm_triton.ops.shapes import no_gradient, previous_states
from cofm_triton.step.pairs import as_complex, as_reals, in_pairs


def apply_scan(
    x: Tensor, decay: Tensor, h0: Tensor | None, ranks: Ranks, reverse: bool, backend: str
) -> tuple[Tensor, Tensor]:
    """`(h, last)` for checked arguments, as `apply_linear_scan` takes them; h0 of all ranks are summed.

    Args:
        x: (B, T, D), the slice of this rank.
        decay: (D,) or gates of the slice, of three axes, or matrices (B, T, D // 2, 2, 2).
        h0: (B, D), or None for zeros.
        ranks: in the order in which time passes.
        reverse: whether time passes from the end of the slice to its beginning.
        backend: resolved.

    Returns:
        h like x, and the state after all slices, (B, D) in the dtype of the state.
    """
    share = _start_like(x) if h0 is None else h0.to(state_dtype(x.dtype))
    h, last, _start = _Scan.apply(x, decay, share, None, ranks, reverse, backend)
    return h, last


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, decay: Tensor, share: Tensor, jump: Tensor | None, ranks: Ranks, reverse: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        pairs = in_pairs(x, decay)
        end = _run(x, decay, _start_like(x), reverse, backend)[1]
        end = end if jump is None else end + jump
        products, ends, shares = ranks.gather(_product(decay, x, reverse), *_modes(pairs, end, share))
        states = _chain(products, ends, shares.sum(0))
        start, last = _channels(pairs, states[ranks.index], states[-1])
        h, _ = _run(x, decay, start, reverse, backend)
        ctx.save_for_backward(decay, h, start, products)
        ctx.options, ctx.jumps = (ranks, reverse, backend), jump is not None
        ctx.set_materialize_grads(False)
        return h, last, start

    @staticmethod
    def backward(
        ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None, grad_start: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        """Takes part in the exchange whatever the gradients are: other ranks wait for it."""
        decay, h, start, products = ctx.saved_tensors
        ranks, reverse, backend = ctx.options
        given = no_gradient(h) if grad_h is None else grad_h
        share = torch.zeros_like(start) if grad_last is None else grad_last
        jump = torch.zeros_like(start) if grad_start is None else grad_start
        arguments = (given, share, jump, decay, h, start, ranks, reverse, backend)
        again = torch.is_grad_enabled() or _is_matrix(decay)
        *grads, arrived = _differentiable(*arguments) if again else _fused(products, *arguments)
        return *grads, arrived if ctx.jumps else None, None, None, None


def _fused(
    products: Tensor, grad_h: Tensor, share: Tensor, jump: Tensor, decay: Tensor, h: Tensor, start: Tensor,
    ranks: Ranks, reverse: bool, backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x, decay, share and jump: two passes of the fused adjoint, the first of them for its end alone."""
    pairs, back = in_pairs(h, decay), ranks.turned()
    end = linear_scan_backward_op(grad_h, None, decay, h, start, None, None, reverse, "h0", backend)[2] + jump
    ends, shares = back.gather(*_modes(pairs, end, share))
    states = _chain(products.flip(0).conj(), ends, shares.sum(0))
    arrived, grad_share = _channels(pairs, states[back.index], states[-1])
    grad_x, grad_decay, _ = linear_scan_backward_op(
        grad_h, arrived, decay, h, start, None, None, reverse, "h0", backend
    )
    return grad_x, grad_decay, grad_share, arrived


def _differentiable(
    grad_h: Tensor, share: Tensor, jump: Tensor, decay: Tensor, h: Tensor, start: Tensor, ranks: Ranks, reverse: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The same in terms of `_Scan`: `v[t] = conj(decay[t]) (v[t+1] + grad_h[t])`, as in `ops/linear_scan.py`."""
    if in_pairs(h, decay):
        given, states = as_complex(grad_h), (as_complex(share), as_complex(jump))
        grad_x, grad_decay, *ends = _differentiable(
            given, *states, decay, as_complex(h), as_complex(start), ranks, reverse, backend
        )
        return as_reals(grad_x).to(h.dtype), grad_decay, as_reals(ends[0]), as_reals(ends[1])
    state = start.dtype
    transposed = (decay.mT if _is_matrix(decay) else decay.conj().resolve_conj()).to(state)
    grad = grad_h.to(state)
    drive = _times(transposed, grad)
    v, grad_share, arrived = _Scan.apply(drive, transposed, share, jump, ranks.turned(), not reverse, backend)
    adjoint = grad + previous_states(v, arrived, None, not reverse)
    before = previous_states(h.to(state), start, None, reverse).conj()
    if _is_matrix(decay):
        grad_decay = adjoint.unflatten(-1, (-1, 2, 1)) * before.unflatten(-1, (-1, 1, 2))
    else:
        grad_decay = adjoint * before
    return adjoint.to(h.dtype), grad_decay.sum_to_size(decay.shape).to(decay.dtype), grad_share, arrived


def _is_matrix(decay: Tensor) -> bool:
    """Of steps, or of a slice."""
    return decay.dim() > 3


def _times(decay: Tensor, states: Tensor) -> Tensor:
    """Decay times states, both of steps or of a slice."""
    if _is_matrix(decay):
        return (decay * states.unflatten(-1, (-1, 1, 2))).sum(-1).flatten(-2)
    return decay * states


def _run(x: Tensor, decay: Tensor, start: Tensor, reverse: bool, backend: str) -> tuple[Tensor, Tensor]:
    """States of a slice and the last of them."""
    if not _is_matrix(decay):
        return linear_scan_op(x, decay, start, None, None, reverse, "h0", backend)
    if x.shape[1] == 0:
        return torch.empty_like(x), start.clone()
    return pair_scan(decay, x, start, None, reverse)


def _product(decay: Tensor, x: Tensor, reverse: bool) -> Tensor:
    """A, (D,) or (B, D), one number for a pair: of a constant decay a power, whose rounding float64 keeps small.

    Columns of matrices (B, D // 2, 2, 2) are what becomes of unit vectors.
    """
    if _is_matrix(decay):
        units = torch.eye(2, dtype=x.dtype, device=x.device).repeat(1, x.shape[2] // 2)
        starts = (unit.expand(x.shape[0], -1) for unit in units)
        columns = [_run(torch.zeros_like(x), decay, start, reverse, "")[1].unflatten(-1, (-1, 2)) for start in starts]
        return torch.stack(columns, -1)
    state = complex_state_dtype(x.dtype) if in_pairs(x, decay) else state_dtype(x.dtype)
    if decay.dim() == 3 and decay.shape[1] != 1:
        return decay.to(state).prod(1).expand(x.shape[0], -1)
    once = decay if decay.dim() == 1 else decay.squeeze(1).expand(x.shape[0], -1)
    wide = once.to(torch.complex128 if once.is_complex() else torch.float64)
    return (wide ** x.shape[1]).to(state)


def _chain(products: Tensor, ends: Tensor, first: Tensor) -> list[Tensor]:
    """s[0], ..., s[n]."""
    states = [first]
    for product, end in zip(products, ends, strict=True):
        states.append(_times(product, states[-1]) + end)
    return states


def _start_like(x: Tensor) -> Tensor:
    """Zeros, (B, D) in the dtype of the state, which is what the last state then has, too."""
    return x.new_zeros((x.shape[0], x.shape[2]), dtype=state_dtype(x.dtype))


def _modes(pairs: bool, *states: Tensor) -> list[Tensor]:
    """States as numbers that decays multiply."""
    return [as_complex(state) if pairs else state for state in states]


def _channels(pairs: bool, *states: Tensor) -> list[Tensor]:
    """The inverse of `_modes`."""
    return [as_reals(state) if pairs else state for state in states]
