"""Gated linear recurrence: rates that depend on the input, decays that stay in (0, 1] for every weight and input.

    h[t] = decay[t] * R h[t-1] + gain[t] * x[t],   decay[t] = exp(-rate * s[t]),   h[-1] = h0

s[t] > 0 is the strength of the gates, made of logits p (of the rate) and q (of the input). R is 1, or turns pairs of
channels (2k, 2k+1) by a fixed angle: h[2k] + i h[2k+1] is multiplied by exp(i angle).

    gates        s                                         gain
    "rg_lru"     sigmoid(p)                                sqrt(1 - decay^2) sigmoid(q)
    "mingru"     softplus(p)                               1 - decay
    "minlstm"    softplus(softplus(-p) - softplus(-q))     1 - decay
    "s6"         softplus(p)                               s

1 - decay^2 is at least the smallest normal number, where the root would have an infinite slope.

With rate = 1, "mingru" has decay = 1 - sigmoid(p), and "minlstm" has decay = f / (f + i), f = sigmoid(p),
i = sigmoid(q).

Source: arXiv 2402.19427, eq 1-4 (RG-LRU); arXiv 2410.01201, section 3 (minGRU, minLSTM); arXiv 2312.00752, section 3.2
and algorithm 2 (the step size of S6).
"""

import torch
from torch import Tensor

from .discretization import complement
from .packing import run_packed
from .precision import state_dtype
from .resets import state_before

GATES = ("rg_lru", "mingru", "minlstm", "s6")


def gate_coefficients(gates: str, rate: Tensor, p: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
    """`(decay, gain)`, like p.

    Args:
        gates: one of `GATES`.
        rate: (D,), >= 0, per step.
        p: (..., D), logits of the rate; of the forget gate f in "minlstm".
        q: like p, logits of the input gate, which "rg_lru" and "minlstm" need.

    Raises:
        ValueError: unknown gates, or q is missing.

    Example:
        >>> gate_coefficients("mingru", torch.ones(1), torch.zeros(1), None)
        (tensor([0.5000]), tensor([0.5000]))
    """
    if gates not in GATES:
        raise ValueError(f"gates must be one of {GATES}, got {gates!r}")
    if q is None and gates in ("rg_lru", "minlstm"):
        raise ValueError(f"gates={gates!r} need logits of the input gate")
    q = p if q is None else q
    if gates == "rg_lru":
        exponent = rate * _sigmoid(p)
        square, tiny = complement(2 * exponent), torch.finfo(exponent.dtype).tiny
        return torch.exp(-exponent), torch.sqrt(torch.where(square < tiny, tiny, square)) * _sigmoid(q)
    if gates == "minlstm":
        exponent = rate * _softplus(_softplus(-p) - _softplus(-q))
        return torch.exp(-exponent), complement(exponent)
    strength = _softplus(p)
    decay = torch.exp(-rate * strength)
    return decay, strength if gates == "s6" else complement(rate * strength)


def gated_rnn(
    x: Tensor,
    rate: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    gates: str = "rg_lru",
    angle: Tensor | None = None,
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> tuple[Tensor, Tensor]:
    """One step of the recurrence after the other.

    Args:
        x: (B, T, D), any T >= 0.
        rate: (D,), >= 0, per step.
        rate_logit: p, like x.
        input_logit: q, like x, or None where the gates have none.
        h0: (B, D), zeros when None; (S, D) with `seq_starts`.
        gates: one of `GATES`.
        angle: (D // 2,), radians per step, or None: channels do not turn.
        seq_starts: (S,) start indices of sequences packed into one row (B = 1).
        resets: (B, T), True where the sequence is cut before a step: pieces are run alone.
        reset_to: what pieces start from, "h0" or "zero", see `resets`.

    Returns:
        h: (B, T, D), every state, in the dtype of x.
        h_last: (B, D), or (S, D): the last state, `h0` itself when there are no steps.

    Example:
        >>> h, _ = gated_rnn(torch.ones(1, 2, 1), torch.ones(1), torch.zeros(1, 2, 1), gates="mingru")
        >>> h.flatten().tolist()
        [0.5, 0.75]
    """
    if seq_starts is not None:

        def part(span: slice, state: Tensor | None) -> tuple[Tensor, Tensor]:
            q = None if input_logit is None else input_logit[:, span]
            cut = None if resets is None else resets[:, span]
            return gated_rnn(
                x[:, span], rate, rate_logit[:, span], q, state,
                gates=gates, angle=angle, resets=cut, reset_to=reset_to,
            )  # fmt: skip

        return run_packed(part, seq_starts, h0, x.shape)
    compute = state_dtype(x, rate, h0)
    p, q = rate_logit.to(compute), None if input_logit is None else input_logit.to(compute)
    decay, gain = gate_coefficients(gates, rate.to(compute), p, q)
    drive = gain * x.to(compute)
    state = drive.new_zeros(x.shape[0], x.shape[2]) if h0 is None else h0.to(compute)
    start = state
    rows = [decay[:, :0] * drive[:, :0]]  # nothing, but it ties T = 0 to the arguments
    for t in range(x.shape[1]):
        before = state_before(t, state, start, resets, reset_to)
        state = decay[:, t] * _turned(before, angle) + drive[:, t]
        rows.append(state.unsqueeze(1))
    return torch.cat(rows, 1).to(x.dtype), state.to((x if h0 is None else h0).dtype)


def _softplus(z: Tensor) -> Tensor:
    return torch.logaddexp(z, torch.zeros_like(z))


def _sigmoid(z: Tensor) -> Tensor:
    """By exp: the derivative of `torch.sigmoid`, y (1 - y), cancels where y is near 1."""
    return torch.exp(-_softplus(-z))


def _turned(h: Tensor, angle: Tensor | None) -> Tensor:
    """Pairs of h (B, D) turned by their angles."""
    if angle is None:
        return h
    cos, sin, real, imaginary = torch.cos(angle), torch.sin(angle), h[:, 0::2], h[:, 1::2]
    return torch.stack((cos * real - sin * imaginary, sin * real + cos * imaginary), -1).flatten(-2).to(h.dtype)
