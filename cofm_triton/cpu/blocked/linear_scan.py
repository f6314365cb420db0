"""Linear scan in plain PyTorch: time in blocks, all blocks advanced together.

T steps are laid out as N blocks of L ~ sqrt(T). L vectorised steps give every block's final state from a zero start, a
scan over the N ends gives the state each block starts from, and L more steps replay the blocks from there: the three
phases of the Triton kernel, with the rounding of the sequential recurrence inside each block. Gates of which an axis
has one entry broadcast along it. Pairs of real channels are computed with as the complex numbers that they are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofm_triton.cpu.packed import spans, starts_of
from cofm_triton.step.pairs import as_complex, as_reals, in_pairs


def forward(
    x: Tensor, decay: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    reverse: bool, state_dtype: torch.dtype, num_sms: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    if in_pairs(x, decay):
        begin = None if h0 is None else as_complex(h0)
        z, last = forward(as_complex(x), decay, begin, seq_starts, reverse=reverse, state_dtype=decay.dtype)
        return as_reals(z).to(x.dtype), as_reals(last)
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    lasts = []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        start = start_states(x, h0, rows, seq_starts, state_dtype)
        states = scan(x[:, span], _gates(decay, span, x.shape[1]), start, reverse, state_dtype)
        h[:, span] = states
        lasts.append((states[:, 0] if reverse else states[:, -1]) if states.shape[1] else start)
    return h, torch.cat(lasts)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    reverse: bool, state_dtype: torch.dtype, num_sms: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1, by the scan `lambda[t] = dh[t] + conj(decay[t+1]) lambda[t+1]`."""
    if in_pairs(h, decay):
        given, begin = (None if states is None else as_complex(states) for states in (grad_last, h0))
        grads = backward(
            as_complex(grad_h), given, decay, as_complex(h), begin, seq_starts, reverse=reverse, state_dtype=decay.dtype
        )  # fmt: skip
        return as_reals(grads[0]).to(h.dtype), grads[1], as_reals(grads[2])
    grad_x = torch.empty_like(h)
    gated = decay.dim() == 3
    grad_decay = torch.zeros(decay.shape, dtype=decay.dtype, device=decay.device)
    grad_starts = []
    for rows, span in spans(starts_of(seq_starts), h.shape[1]):
        end = start_states(h, grad_last, rows, seq_starts, state_dtype)
        start = start_states(h, h0, rows, seq_starts, state_dtype)
        if span.start == span.stop:
            grad_starts.append(end)
            continue
        gates = _gates(decay, span, h.shape[1]).conj().resolve_conj()  # PyTorch's compiler forgets lazy ones
        first, last = (-1, 0) if reverse else (0, -1)
        drive = grad_h[:, span].to(state_dtype, copy=True)
        drive[:, last] += end
        # lambda[t] takes the decay of the step after t; the one that wraps around meets a zero state.
        shifted = gates.roll(1 if reverse else -1, 1) if gated else gates
        adjoint = scan(drive, shifted, torch.zeros_like(end), not reverse, state_dtype)
        before = h[:, span].to(state_dtype).roll(-1 if reverse else 1, 1)
        before[:, first] = start
        grad_x[:, span] = adjoint
        product = adjoint * before.conj().resolve_conj()
        mine = _gates(grad_decay, span, h.shape[1])
        mine += product.sum_to_size(mine.shape)
        grad_starts.append((gates[:, first].to(state_dtype) if gated else gates) * adjoint[:, first])
    return grad_x, grad_decay, torch.cat(grad_starts)


def scan(x: Tensor, decay: Tensor, start: Tensor, reverse: bool, state_dtype: torch.dtype) -> Tensor:
    """Every state (B, T, D), in `state_dtype`, of the scan from `start` (B, D)."""
    if reverse:
        flipped = decay.flip(1) if decay.dim() == 3 else decay
        return scan(x.flip(1), flipped, start, False, state_dtype).flip(1)
    batch, length, channels = x.shape
    if decay.dim() == 3:
        decay = decay.expand(-1, length, -1)
    block = max(1, math.isqrt(length))
    count = length // block
    whole = count * block
    h = x.new_empty(x.shape, dtype=state_dtype)
    blocks = x[:, :whole].unflatten(1, (count, block))
    gates = decay if decay.dim() == 1 else decay[:, :whole].unflatten(1, (count, block))

    def gate(j: int) -> Tensor:
        return gates if decay.dim() == 1 else gates[:, :, j]

    ends = torch.zeros((batch, count, channels), dtype=state_dtype, device=x.device)
    # Products of many decays leave the range of float32 long before the states they belong to do.
    products = torch.ones_like(ends, dtype=torch.promote_types(state_dtype, torch.float64))
    for j in range(block):
        ends = torch.addcmul(blocks[:, :, j].to(state_dtype), gate(j).to(state_dtype), ends)
        products = products * gate(j)
    usable = products.isfinite().all(2).all(0).tolist()
    states = torch.empty_like(ends)
    state = start
    for i in range(count):
        states[:, i] = state
        if usable[i] and bool(state.isfinite().all()):
            state = (ends[:, i] + products[:, i] * state).to(state_dtype)
        else:  # what overflows says nothing: a product's state may be 0, and a state's product need not be
            for j in range(block):
                one = gate(j) if decay.dim() == 1 else gate(j)[:, i]
                state = torch.addcmul(blocks[:, i, j].to(state_dtype), one.to(state_dtype), state)
    replay = h[:, :whole].unflatten(1, (count, block))
    for j in range(block):
        states = torch.addcmul(blocks[:, :, j].to(state_dtype), gate(j).to(state_dtype), states)
        replay[:, :, j] = states
    for t in range(whole, length):
        last = decay if decay.dim() == 1 else decay[:, t]
        state = h[:, t - 1] if t else start
        h[:, t] = torch.addcmul(x[:, t].to(state_dtype), last.to(state_dtype), state)
    return h


def _gates(decay: Tensor, span: slice, length: int) -> Tensor:
    """The gates of a sequence; what has one entry for all `length` steps has none of its own."""
    return decay if decay.dim() == 1 or decay.shape[1] < length else decay[:, span]


def start_states(
    x: Tensor, states: Tensor | None, rows: slice, seq_starts: Tensor | None, state_dtype: torch.dtype
) -> Tensor:
    """Initial states of a sequence, zeros when not given."""
    if states is not None:
        return states[rows].to(state_dtype)
    return x.new_zeros((x.shape[0] if seq_starts is None else 1, x.shape[2]), dtype=state_dtype)
