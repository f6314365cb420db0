"""Linear recurrence  h[t] = decay[t] * h[t-1] + x[t],  t = 0..T-1,  h[-1] = h0."""

import torch
from torch import Tensor

from .packing import run_packed
from .precision import output_dtype, state_dtype
from .resets import begins, state_before


def linear_scan(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None = None,
    *,
    reverse: bool = False,
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """Linear scan, one step of the recurrence after the other.

        h[t] = decay[t] * h[t-1] + x[t],   h[-1] = h0                (reverse=False)
        h[t] = decay[t] * h[t+1] + x[t],   h[T] = h0                 (reverse=True)

    With a complex decay and a real x, channels (2k, 2k+1) of x, h0, h and h_last are the real and the imaginary part of
    complex channel k: a pair that turns.

    Args:
        x: (B, T, D), real or complex, any T >= 0.
        decay: (D,), the same at every step, or anything that broadcasts to (B, T, D). D // 2 in place of D if it is
            complex and x real.
        h0: (B, D), zeros when None; (S, D) with `seq_starts`.
        reverse: run from t = T-1 down to 0.
        seq_starts: (S,) start indices of sequences packed into one row (B = 1).
        resets: (B, T), True where the sequence is cut before a step: pieces are run alone.
        reset_to: what pieces start from, "h0" or "zero", see `resets`.

    Returns:
        h: (B, T, D), every state, in the dtype of `x` (complex when `h0` is).
        h_last: (B, D), or (S, D) with `seq_starts`: the state after the last step taken
            (t = T-1, or t = 0 in reverse), `h0` itself when there are no steps.

    Example:
        >>> h, h_last = linear_scan(torch.ones(1, 3, 1), torch.tensor([0.5]))
        >>> h.flatten().tolist(), h_last.item()
        ([1.0, 1.5, 1.75], 1.75)
    """
    if decay.is_complex() and not x.is_complex():
        start = None if h0 is None else _complex(h0)
        h, h_last = linear_scan(
            _complex(x), decay, start, reverse=reverse, seq_starts=seq_starts, resets=resets, reset_to=reset_to
        )
        return _pairs(h).to(x.dtype), _pairs(h_last).to((x if h0 is None else h0).dtype)
    decay = decay.expand(x.shape)
    if seq_starts is not None:

        def part(span: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
            cut = None if resets is None else resets[:, span]
            return linear_scan(x[:, span], decay[:, span], state, reverse=reverse, resets=cut, reset_to=reset_to)

        return run_packed(part, seq_starts, h0, x.shape)
    compute = state_dtype(x, decay, h0)
    output = output_dtype(x, decay, h0)
    inputs, decays = x.to(compute), decay.to(compute)
    state = inputs.new_zeros(x.shape[0], x.shape[2]) if h0 is None else h0.to(compute)
    start, begin = state, None if resets is None else begins(resets, reverse)
    steps = range(x.shape[1])
    rows = [decays[:, :0] * inputs[:, :0]]  # nothing, but it ties T = 0 to the arguments
    for t in reversed(steps) if reverse else steps:
        state = decays[:, t] * state_before(t, state, start, begin, reset_to) + inputs[:, t]
        rows.append(state.unsqueeze(1))
    if reverse:
        rows.reverse()
    return torch.cat(rows, 1).to(output), state.to(output if h0 is None else output_dtype(h0, x, decay))


def _complex(pairs: Tensor) -> Tensor:
    """(..., D // 2) complex numbers out of (..., D) real ones, in the dtype of the state."""
    wide = pairs.to(state_dtype(pairs))
    return torch.complex(wide[..., 0::2], wide[..., 1::2])


def _pairs(numbers: Tensor) -> Tensor:
    """(..., D) real numbers, the real and the imaginary part of each complex one in turn."""
    return torch.stack((numbers.real, numbers.imag), -1).flatten(-2)
