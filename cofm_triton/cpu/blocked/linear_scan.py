"""Linear scan in plain PyTorch: time is cut into blocks, and all blocks advance together.

T steps make N blocks of L ~ sqrt(T) steps. There are three phases, as in the Triton kernel:

1. summaries: L vectorised steps give the last state of every block from a zero start;
2. carries: a scan over these N states gives the state that each block starts from;
3. replay: L more steps give all states.

Inside a block, rounding is that of the sequential recurrence. Gates broadcast along axes of size 1. Pairs of real
channels are computed as complex numbers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofm_triton.cpu.packed import spans, starts_of
from cofm_triton.step.pairs import as_complex, as_reals, in_pairs


def forward(
    x: Tensor, decay: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *, reverse: bool, state_dtype: torch.dtype,
    resets: Tensor | None = None, reset_to: str = "h0", num_sms: int = 1, lanes: int = 1,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """`(h, h_last)` with T >= 1: h (B, T, D) in x's dtype, h_last (S, D) in the state's."""
    if in_pairs(x, decay):
        begin = None if h0 is None else as_complex(h0)
        z, last = forward(
            as_complex(x), decay, begin, seq_starts,
            reverse=reverse, state_dtype=decay.dtype, resets=resets, reset_to=reset_to,
        )  # fmt: skip
        return as_reals(z).to(x.dtype), as_reals(last)
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    lasts = []
    for rows, span in spans(starts_of(seq_starts), x.shape[1]):
        start = start_states(x, h0, rows, seq_starts, state_dtype)
        cut = None if resets is None else resets[:, span]
        anew = start if reset_to == "h0" else torch.zeros_like(start)
        states = scan(x[:, span], _gates(decay, span, x.shape[1]), start, reverse, state_dtype, cut, anew)
        h[:, span] = states
        lasts.append((states[:, 0] if reverse else states[:, -1]) if states.shape[1] else start)
    return h, torch.cat(lasts)


def backward(
    grad_h: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *,
    reverse: bool, state_dtype: torch.dtype, resets: Tensor | None = None, reset_to: str = "h0", num_sms: int = 1,
    lanes: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """`(grad_x, grad_decay, grad_h0)` with T >= 1, by the scan `lambda[t] = dh[t] + conj(decay[t+1]) lambda[t+1]`."""
    if in_pairs(h, decay):
        given, begin = (None if states is None else as_complex(states) for states in (grad_last, h0))
        grads = backward(
            as_complex(grad_h), given, decay, as_complex(h), begin, seq_starts,
            reverse=reverse, state_dtype=decay.dtype, resets=resets, reset_to=reset_to,
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
        # lambda[t] takes the decay of the step after t, and its reset; what wraps around meets a zero state.
        back, nothing = 1 if reverse else -1, torch.zeros_like(end)
        shifted, cut = gates.roll(back, 1) if gated else gates, None if resets is None else resets[:, span]
        cut_after = None if cut is None else cut.roll(back, 1)
        adjoint = scan(drive, shifted, nothing, not reverse, state_dtype, cut_after, nothing)
        before = h[:, span].to(state_dtype).roll(-back, 1)
        before[:, first] = start
        if cut is not None:
            anew = start if reset_to == "h0" else torch.zeros_like(start)
            before = torch.where(cut.unsqueeze(2), anew.unsqueeze(1), before)
        grad_x[:, span] = adjoint
        product = adjoint * before.conj().resolve_conj()
        mine = _gates(grad_decay, span, h.shape[1])
        mine += product.sum_to_size(mine.shape)
        if cut is None:
            grad_starts.append((gates[:, first].to(state_dtype) if gated else gates) * adjoint[:, first])
        else:
            mu = (gates.to(state_dtype) * adjoint).masked_fill_(~from_start(cut, first, reset_to).unsqueeze(2), 0)
            grad_starts.append(mu.sum(1))
    return grad_x, grad_decay, torch.cat(grad_starts)


def from_start(cut: Tensor, first: int, reset_to: str) -> Tensor:
    """(B, T): whether a step goes on from the start state of its sequence; `first` is the first step."""
    found = cut.clone() if reset_to == "h0" else torch.zeros_like(cut)
    found[:, first] = ~cut[:, first] if reset_to == "zero" else True
    return found


def scan(
    x: Tensor, decay: Tensor, start: Tensor, reverse: bool, state_dtype: torch.dtype, cut: Tensor | None = None,
    anew: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Every state (B, T, D), in `state_dtype`, of the scan from `start` (B, D), and from `anew` (B, D) wherever `cut`
    (B, T).
    """
    if reverse:
        flipped = decay.flip(1) if decay.dim() == 3 else decay
        cut = None if cut is None else cut.flip(1)
        return scan(x.flip(1), flipped, start, False, state_dtype, cut, anew).flip(1)
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

    cuts = None if cut is None else cut[:, :whole].unflatten(1, (count, block))

    def begun(states: Tensor, j: int) -> Tensor:
        """The states that step j of all blocks goes on from."""
        if cuts is None or anew is None:
            return states
        return torch.where(cuts[:, :, j, None], anew.unsqueeze(1), states)

    def begun_at(t: int, state: Tensor) -> Tensor:
        return state if cut is None or anew is None else torch.where(cut[:, t, None], anew, state)

    ends = torch.zeros((batch, count, channels), dtype=state_dtype, device=x.device)
    # Products of many decays leave the range of float32 long before the states they belong to do.
    products = torch.ones_like(ends, dtype=torch.promote_types(state_dtype, torch.float64))
    for j in range(block):
        ends = torch.addcmul(blocks[:, :, j].to(state_dtype), gate(j).to(state_dtype), begun(ends, j))
        products = products if cuts is None else products.masked_fill(cuts[:, :, j, None], 0)
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
                before = begun_at(i * block + j, state)
                state = torch.addcmul(blocks[:, i, j].to(state_dtype), one.to(state_dtype), before)
    replay = h[:, :whole].unflatten(1, (count, block))
    for j in range(block):
        states = torch.addcmul(blocks[:, :, j].to(state_dtype), gate(j).to(state_dtype), begun(states, j))
        replay[:, :, j] = states
    for t in range(whole, length):
        last = decay if decay.dim() == 1 else decay[:, t]
        state = begun_at(t, h[:, t - 1] if t else start)
        h[:, t] = torch.addcmul(x[:, t].to(state_dtype), last.to(state_dtype), state)
    return h


def _gates(decay: Tensor, span: slice, length: int) -> Tensor:
    """The gates of one sequence; gates with one entry for all `length` steps as they are."""
    return decay if decay.dim() == 1 or decay.shape[1] < length else decay[:, span]


def start_states(
    x: Tensor, states: Tensor | None, rows: slice, seq_starts: Tensor | None, state_dtype: torch.dtype
) -> Tensor:
    """Initial states of a sequence, zeros when not given."""
    if states is not None:
        return states[rows].to(state_dtype)
    return x.new_zeros((x.shape[0] if seq_starts is None else 1, x.shape[2]), dtype=state_dtype)
