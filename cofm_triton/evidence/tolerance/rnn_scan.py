"""Bounds of the diagonal nonlinear recurrence, see `tolerance`."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance.bound import (
    LEVELS,
    RATE_ROUNDINGS,
    Bound,
    bound_of,
    bounds_of_pieces,
    differentiate,
    rounding_of,
    stored_error,
)
from cofm_triton.evidence.tolerance.orbit import orbit_of
from cofm_triton.ops.dtypes import state_dtype


def rnn_scan_bounds(
    x: Tensor,
    rate: Tensor,
    h0: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    parameterization: str = "direct",
    discretization: str = "euler",
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> dict[str, Bound]:
    """Exact results of `cofm_triton.rnn_scan` and the errors that any correct evaluation stays below.

    Args:
        x: (B, T, D) in the dtype that is tested.
        rate: (D,), or (B, T, D), raw parameters.
        h0: (B, D) or None; (S, D) with `seq_starts`.
        grad_h: (B, T, D), derivative of a loss by h; None for zeros.
        grad_last: like h_last, derivative of a loss by it; None for zeros.
        dt: see `rnn_scan`.
        nonlinearity: see `rnn_scan`.
        parameterization: see `rnn_scan`.
        discretization: see `rnn_scan`.
        seq_starts: see `rnn_scan`.
        resets: see `rnn_scan`.
        reset_to: see `rnn_scan`.

    Returns:
        "h", "h_last", "grad_x", "grad_rate" and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = rnn_scan_bounds(torch.full((1, 2, 1), 5.0), torch.tensor([1.0]))
        >>> bounds["h"].exact.flatten().tolist()
        [1.0, 2.0]
    """
    if resets is not None:
        kinds: dict[str, Any] = dict(
            dt=dt, nonlinearity=nonlinearity, parameterization=parameterization, discretization=discretization
        )
        run_alone = partial(rnn_scan_bounds, **kinds)
        return bounds_of_pieces(run_alone, (x, rate), h0, grad_h, grad_last, seq_starts, resets, reset_to)
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    last_dtype = x.dtype if h0 is None else h0.dtype
    starts = (x.new_zeros((sequences, x.shape[2])) if h0 is None else h0).double()
    pull = x.new_zeros(x.shape).double() if grad_h is None else grad_h.double()
    pull_last = torch.zeros_like(starts) if grad_last is None else grad_last.double()

    def run(x: Tensor, rate: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rnn_scan(x, rate, h0, dt=dt, nonlinearity=nonlinearity, seq_starts=seq_starts)

    u = rounding_of(state_dtype(x.dtype))
    made_of = 0 if (parameterization, discretization) == ("direct", "euler") else RATE_ROUNDINGS
    w = rate.double().requires_grad_()
    raw = reference.parameterization(parameterization).rate(w)
    effective = reference.effective_rate(raw, dt, discretization)
    (by_w,) = torch.autograd.grad(effective.sum(), w)
    inputs = [x.double(), effective.detach(), starts]
    exact, exact_grads = differentiate(run, inputs, [pull, pull_last])
    h = exact[0]
    orbit = orbit_of(
        inputs[0], inputs[1], h, starts, seq_starts, dt=dt, nonlinearity=nonlinearity, rate_roundings=made_of
    )
    e, e_last = orbit.state_errors(u)
    # The adjoint forms z again from x and stored states, or from states recomputed from an earlier stored one.
    stored = e + stored_error(h.abs().cummax(1).values if h.shape[1] else h, x.dtype)
    adjoint = orbit.adjoint_errors(u, stored, pull.abs(), torch.zeros_like(h), pull_last.abs())
    e_rate = orbit.product_errors(u, adjoint, orbit.before, orbit.earlier(stored), rate.shape)
    if made_of:
        # d rate / d w of an exact step holds exp(-dt f(w)), which multiplies the error of its exponent, and is 0 or
        # infinite from 1000 on.
        exponent = (dt * raw.detach()).abs().clamp(max=1000.0) if discretization == "exact" else 0.0
        e_rate = by_w.abs() * (e_rate + made_of * u * (2 + exponent) * exact_grads[1].abs())
    return {
        "h": bound_of(exact[0], e, x.dtype),
        "h_last": bound_of(exact[1], e_last, last_dtype),
        "grad_x": bound_of(exact_grads[0], adjoint.e_z, x.dtype),
        "grad_rate": bound_of(by_w * exact_grads[1], e_rate, rate.dtype),
        "grad_h0": bound_of(exact_grads[2], adjoint.e_first + LEVELS * u * adjoint.first, last_dtype),
    }
