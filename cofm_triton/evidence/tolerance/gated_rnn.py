"""Bounds of the gated linear recurrence, see `tolerance`.

Relative errors of what the gates form, with E = rate * s the exponent of the decay:

    s, gain, slopes     GATE_ROUNDINGS, and two for each unit of a logit, by which exp multiplies a rounding of it
    decay               E times that of E, and its own: exp multiplies again

Pairs that turn are bounded by their norms, which a turn keeps, and by the larger decay of the two.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance.bound import LEVELS, Bound, bound_of, differentiate, rounding_of, stored_error
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import previous_states, resets_against, start_gradients
from cofm_triton.step.gates import gates_of, strength

# Of a strength, a gain or their slopes: at most three functions like exp, log1p or a quotient, four for each, and
# twenty products and sums on the way.
GATE_ROUNDINGS = 32
# A product and a sum; of pairs three more products and two sums, and the rounding of cos and sin.
STEP_ROUNDINGS, TURN_ROUNDINGS = 3, 6


class _Gates(NamedTuple):
    """Exact magnitudes of what the gates form, and their relative errors."""

    decay: Tensor
    gain: Tensor
    strength: Tensor
    slopes: list[Tensor]  # of the strength, by p and by q
    gain_by_exponent: Tensor
    gain_by_strength: Tensor
    gain_by_q: Tensor
    relative: Tensor
    decay_relative: Tensor


def _formed(name: str, rate: Tensor, p: Tensor, q: Tensor | None, state: torch.dtype) -> _Gates:
    row, second = gates_of(name), torch.zeros_like(p) if q is None else q
    leaves = [p.clone().requires_grad_(), second.clone().requires_grad_()]
    s = strength(row, *leaves)
    slopes = [g.abs() for g in torch.autograd.grad(s.sum(), leaves, allow_unused=True, materialize_grads=True)]
    s = s.detach()
    decay, gain = reference.gate_coefficients(name, rate, p, q)
    nothing, by_exponent, by_q = torch.zeros_like(p), torch.zeros_like(p), torch.zeros_like(p)
    u = rounding_of(state)
    relative = u * (GATE_ROUNDINGS + 2 * (p.abs() + second.abs()))
    if row.gain == "complement":
        by_exponent = decay
    elif row.gain == "variance":
        square, share, least = -torch.expm1(-2 * rate * s), torch.sigmoid(second), torch.finfo(state).tiny
        by_exponent = decay**2 * share / square.clamp(min=torch.finfo(square.dtype).tiny).sqrt()
        # Where the state's dtype holds the root up, a gain and its slope may be anything up to what it has there.
        relative = torch.where(square < 2 * least, 2.0, relative)
        gain = gain.maximum(share * least**0.5)
        by_q = gain * torch.sigmoid(-second)
    decay_relative = rate * s * relative + u * (4 + 2 * rate * s)
    direct = nothing + 1 if row.gain == "strength" else nothing
    return _Gates(decay, gain, s, slopes, by_exponent, direct, by_q, relative, decay_relative)


def gated_rnn_bounds(
    x: Tensor,
    rate: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None = None,
    angle: Tensor | None = None,
    h0: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    *,
    gates: str = "rg_lru",
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> dict[str, Bound]:
    """Exact results of `cofm_triton.gated_rnn` and the errors that any correct evaluation stays below.

    Args:
        x: (B, T, D) in the dtype that is tested: its unit roundoff and its state's are the u of the bounds.
        rate: (D,).
        rate_logit: like x.
        input_logit: like x, or None where the gates have none.
        angle: (D // 2,) or None.
        h0: (B, D) or None; (S, D) with `seq_starts`.
        grad_h: (B, T, D), derivative of a loss by h; None for zeros.
        grad_last: like h_last, derivative of a loss by it; None for zeros.
        gates: see `gated_rnn`.
        seq_starts: see `gated_rnn`.
        resets: see `gated_rnn`.
        reset_to: see `gated_rnn`.

    Returns:
        "h", "h_last", "grad_x", "grad_rate", "grad_rate_logit", "grad_h0" (as if h0 were zeros when None), and, where
        they are given, "grad_input_logit" and "grad_angle".

    Example:
        >>> x, rate, logit = torch.ones(1, 2, 1), torch.ones(1), torch.zeros(1, 2, 1)
        >>> gated_rnn_bounds(x, rate, logit, gates="mingru")["h"].exact.flatten().tolist()
        [0.5, 0.75]
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    state, last_dtype = state_dtype(x.dtype), x.dtype if h0 is None else h0.dtype
    u = rounding_of(state)
    start = x.new_zeros((sequences, x.shape[2])) if h0 is None else h0
    given = {"x": x, "rate": rate, "rate_logit": rate_logit, "input_logit": input_logit, "angle": angle, "h0": start}
    wide = {name: tensor.double() for name, tensor in given.items() if tensor is not None}
    dtypes = {name: tensor.dtype for name, tensor in given.items() if tensor is not None}
    pulls = [torch.zeros_like(wide["x"]) if grad_h is None else grad_h.double()]
    pulls.append(torch.zeros_like(wide["h0"]) if grad_last is None else grad_last.double())

    def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        given: dict[str, Any] = dict(zip(wide, tensors, strict=True))
        return reference.gated_rnn(**given, gates=gates, seq_starts=seq_starts, resets=resets, reset_to=reset_to)

    (h, last), found = differentiate(run, list(wide.values()), pulls)
    exact = dict(zip(wide, found, strict=True))

    def size(vector: Tensor) -> Tensor:
        if angle is None:
            return vector.abs()
        return vector.unflatten(-1, (-1, 2)).norm(dim=-1).repeat_interleave(2, -1)

    formed = _formed(gates, wide["rate"], wide["rate_logit"], wide.get("input_logit"), state)
    decay, relative, decay_relative = formed.decay, formed.relative, formed.decay_relative
    if angle is not None:
        decay, relative, decay_relative = (
            t.unflatten(-1, (-1, 2)).amax(-1).repeat_interleave(2, -1) for t in (decay, relative, decay_relative)
        )
    steps = STEP_ROUNDINGS + (TURN_ROUNDINGS if angle is not None else 0)
    inputs, zero = wide["x"].abs(), torch.zeros_like(wide["h0"])
    drive = size(formed.gain * inputs)

    # Forward: H, the states of magnitudes, and their errors.
    cuts: dict[str, Any] = dict(seq_starts=seq_starts, resets=resets)
    reach, reach_last = reference.linear_scan(drive, decay, size(wide["h0"]), reset_to=reset_to, **cuts)
    before = previous_states(reach, size(wide["h0"]), seq_starts, False, resets, reset_to)
    made = (decay_relative + steps * u) * decay * before + (relative + steps * u) * drive
    e, e_last = reference.linear_scan(made, decay, zero, **cuts)
    e_before = previous_states(e + stored_error(reach, x.dtype), zero, seq_starts, False, resets) + steps * u * before

    # Backward: Lambda, the magnitudes of the adjoint, and their errors.
    pull, pull_last = (size(tensor) for tensor in pulls)
    back, anew = resets_against(resets, seq_starts, True), "zero"
    mu, first = reference.linear_scan(decay * pull, decay, pull_last, reverse=True, reset_to=anew, **cuts)
    adjoint = pull + previous_states(mu, pull_last, seq_starts, True, back, anew)
    made = decay * adjoint * (decay_relative + (steps + 2) * u)
    e_mu, e_first = reference.linear_scan(made, decay, zero, reverse=True, **cuts)
    e_adjoint = previous_states(e_mu, zero, seq_starts, True, back) + 2 * u * adjoint
    first, e_first = (
        start_gradients(m, f, seq_starts, False, resets, reset_to) for m, f in ((mu, first), (e_mu, e_first))
    )

    # Gradients of exponent and strength, then of what they are made of.
    slack = relative + 3 * decay_relative + LEVELS * u
    by_exponent = formed.decay * adjoint * before + adjoint * inputs * formed.gain_by_exponent
    e_exponent = slack * by_exponent + formed.decay * (e_adjoint * before + adjoint * e_before)
    e_exponent = e_exponent + e_adjoint * inputs * formed.gain_by_exponent
    by_strength = wide["rate"] * by_exponent + formed.gain_by_strength * adjoint * inputs
    e_strength = wide["rate"] * e_exponent + formed.gain_by_strength * inputs * (e_adjoint + u * adjoint)
    by_q = formed.gain_by_q * adjoint * inputs
    few, count = LEVELS * u, x.shape[0] * x.shape[1]
    pieces = 0 if resets is None or not len(resets) else int(resets.sum(1).max())  # each has a part of h0's gradient
    errors = {
        "x": formed.gain * (e_adjoint + slack * adjoint),
        "rate": (formed.strength * (e_exponent + (slack + count * u) * by_exponent)).sum((0, 1)),
        "rate_logit": formed.slopes[0] * (e_strength + slack * by_strength),
        "input_logit": formed.slopes[1] * (e_strength + slack * by_strength)
        + formed.gain_by_q * e_adjoint * inputs + slack * by_q,
        "h0": e_first + (few + pieces * u) * first,
    }  # fmt: skip
    if angle is not None:
        turned = decay * (e_adjoint * before + adjoint * e_before + (slack + 2 * count * u) * adjoint * before)
        errors["angle"] = turned[..., ::2].sum((0, 1))
    bounds = {
        "h": bound_of(h, e + few * reach, x.dtype),
        "h_last": bound_of(last, e_last + few * reach_last, last_dtype),
    }
    for name, gradient in exact.items():
        dtype = last_dtype if name == "h0" else dtypes[name]
        bounds[f"grad_{name}"] = bound_of(gradient, errors[name], dtype)
    return bounds
