"""Bounds of the nonlinear recurrence of pairs, see `tolerance`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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
from cofm_triton.evidence.tolerance.orbit import slope_uncertainty
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import previous_states
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.activations import properties


def paired_rnn_scan_bounds(
    x: Tensor,
    rate: Tensor,
    frequency: Tensor,
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
    """Exact results of `cofm_triton.rnn_scan` with frequencies, and errors that any evaluation in order stays below.

    Args:
        x: (B, T, D) in the dtype that is tested.
        rate: (D // 2,), raw parameters.
        frequency: (D // 2,).
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
        "h", "h_last", "grad_x", "grad_rate", "grad_frequency" and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = paired_rnn_scan_bounds(torch.full((1, 2, 2), 5.0), torch.ones(1), torch.zeros(1))
        >>> bounds["h"].exact.flatten().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    if resets is not None:
        kinds: dict[str, Any] = dict(
            dt=dt, nonlinearity=nonlinearity, parameterization=parameterization, discretization=discretization
        )
        run_alone = partial(paired_rnn_scan_bounds, **kinds)
        return bounds_of_pieces(run_alone, (x, rate, frequency), h0, grad_h, grad_last, seq_starts, resets, reset_to)
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    last_dtype = x.dtype if h0 is None else h0.dtype
    starts = (x.new_zeros((sequences, x.shape[2])) if h0 is None else h0).double()
    pull = x.new_zeros(x.shape).double() if grad_h is None else grad_h.double()
    pull_last = torch.zeros_like(starts) if grad_last is None else grad_last.double()
    u = rounding_of(state_dtype(x.dtype))
    pairs = Pairs(rate.double(), frequency.double(), dt, nonlinearity, parameterization, discretization)

    def run(x: Tensor, alpha: Tensor, omega: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rnn_scan(
            x, alpha, h0, dt=dt, nonlinearity=nonlinearity, frequency=omega, seq_starts=seq_starts
        )

    inputs = [x.double(), pairs.alpha, pairs.omega, starts]
    exact, exact_grads = differentiate(run, inputs, [pull, pull_last])
    before = previous_states(exact[0], starts, seq_starts, False)
    e, e_x, grad_x = torch.zeros_like(exact[0]), torch.zeros_like(exact[0]), torch.zeros_like(exact[0])
    e_before, e_last, e_first = torch.zeros_like(before), torch.zeros_like(starts), torch.zeros_like(starts)
    ranges = [slice(None)] if seq_starts is None else reference.spans(seq_starts, x.shape[1])
    for i, span in enumerate(ranges):
        rows = slice(None) if seq_starts is None else slice(i, i + 1)
        orbit = PairOrbit(pairs, inputs[0][:, span], exact[0][:, span], before[:, span])
        e[:, span], e_last[rows] = orbit.state_errors(u)
        # The adjoint forms z again from x and stored states, or from states recomputed from an earlier stored one.
        stored = e[:, span]
        if stored.shape[1]:
            stored = stored + stored_error(exact[0][:, span].abs().cummax(1).values, x.dtype)
        e_before[:, span] = previous_states(stored, torch.zeros_like(starts[rows]), None, False)
        grad_x[:, span], e_x[:, span], e_first[rows] = orbit.adjoint_errors(
            u, e_before[:, span], pull[:, span], pull_last[rows]
        )
    count = x.shape[0] * x.shape[1]
    swapped = [(factor, swap_pairs(factor)) for factor in (before.abs(), e_before)]
    e_alpha, e_omega = (
        (e_x * factor + grad_x * (e_factor + count * u * factor)).sum((0, 1)).unflatten(0, (-1, 2)).sum(1)
        for factor, e_factor in zip(*swapped, strict=True)
    )
    values, errors = pairs.chain(u, exact_grads[1:3], (e_alpha, e_omega))
    return {
        "h": bound_of(exact[0], e, x.dtype),
        "h_last": bound_of(exact[1], e_last, last_dtype),
        "grad_x": bound_of(exact_grads[0], e_x, x.dtype),
        "grad_rate": bound_of(values[0], errors[0], rate.dtype),
        "grad_frequency": bound_of(values[1], errors[1], frequency.dtype),
        "grad_h0": bound_of(exact_grads[3], e_first, last_dtype),
    }


def swap_pairs(row: Tensor) -> Tensor:
    """Channels 2k and 2k + 1 exchanged."""
    return row.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


class Pairs:
    """Exact coefficients of pairs, (D // 2,), and how far those made of raw parameters may be from them."""

    def __init__(
        self, raw: Tensor, frequency: Tensor, dt: float, nonlinearity: str, parameterization: str, discretization: str
    ) -> None:
        self.dt, self.nonlinearity = dt, nonlinearity
        self._raw, self._frequency = raw.requires_grad_(), frequency.requires_grad_()
        rate = reference.parameterization(parameterization).rate(self._raw)
        self._made = reference.effective_pair(rate, self._frequency, dt, discretization)
        self.alpha, self.omega = (value.detach() for value in self._made)
        plain = (parameterization, discretization) == ("direct", "euler")
        self._roundings = 0 if plain else RATE_ROUNDINGS
        (by_raw,) = torch.autograd.grad(rate.sum(), self._raw, retain_graph=True)
        decrement, angle = dt * rate.detach().abs(), (dt * frequency.detach()).abs()
        decay = torch.exp(-dt * rate.detach()) if discretization == "exact" else torch.ones_like(angle)
        # What a relative error of dt r or dt w becomes in a coefficient (the cosine of a small angle forgives it), and
        # in the derivatives of coefficients.
        self._alpha_spread = decay * (decrement + angle * angle.clamp(max=1)) / dt
        self._omega_spread = decay * angle * (1 + decrement) / dt
        slopes = decay * (1 + decrement + angle)
        self._slope_spreads = slopes * by_raw.abs(), slopes

    def errors(self, u: float) -> tuple[Tensor, Tensor]:
        """Of alpha and omega, (D // 2,)."""
        own = self._roundings * u
        return own * (self.alpha.abs() + self._alpha_spread), own * (self.omega.abs() + self._omega_spread)

    def chain(
        self, u: float, grads: Sequence[Tensor], errors: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Gradients by raw parameters and frequencies, and their errors, from those by alpha and omega."""
        values, allowed = [], []
        for leaf, spread in zip((self._raw, self._frequency), self._slope_spreads, strict=True):
            value, error = torch.zeros_like(grads[0]), torch.zeros_like(grads[0])
            for made, grad, e_grad in zip(self._made, grads, errors, strict=True):
                (slope,) = torch.autograd.grad(made.sum(), leaf, retain_graph=True, allow_unused=True)
                if slope is not None:
                    value = value + slope * grad
                    error = error + slope.abs() * e_grad + self._roundings * u * (slope.abs() + spread) * grad.abs()
            values.append(value)
            allowed.append(error)
        return tuple(values), tuple(allowed)


class PairOrbit:
    """The exact states of pairs along one sequence, (B, T, D), and the errors that travel along them."""

    def __init__(
        self, pairs: Pairs, drive: Tensor, h: Tensor, before: Tensor, drive_scale: Tensor | None = None,
        drive_roundings: int = 0,
    ) -> None:  # fmt: skip
        self.pairs, self.h, self.before = pairs, h, before
        self.alpha = pairs.alpha.repeat_interleave(2)
        self.omega = torch.stack((-pairs.omega, pairs.omega), -1).flatten()
        turned = self.omega * swap_pairs(before)
        self.z = drive - self.alpha * before - turned
        scale = drive.abs() if drive_scale is None else drive_scale
        self.scale, self.roundings = scale + (self.alpha * before).abs() + turned.abs(), 4 + drive_roundings
        self.slope = activation_slope(pairs.nonlinearity)(self.z)
        matrix = reference.pair_matrix(pairs.alpha, pairs.omega)
        eye = torch.eye(2, dtype=torch.float64)
        self.jacobian = eye - pairs.dt * self.slope.unflatten(-1, (-1, 2)).unsqueeze(-1) * matrix

    def reach(self, row: Tensor) -> Tensor:
        """|A| times a row of magnitudes."""
        return self.alpha.abs() * row + self.omega.abs() * swap_pairs(row)

    def rounded(self, u: float) -> Tensor:
        """What z rounds, four times after its drive, and the errors of its coefficients."""
        e_alpha, e_omega = (error.repeat_interleave(2) for error in self.pairs.errors(u))
        return self.roundings * u * self.scale + e_alpha * self.before.abs() + e_omega * swap_pairs(self.before.abs())

    def state_errors(self, u: float) -> tuple[Tensor, Tensor]:
        """Errors of h, and of the last states."""
        dt, kind = self.pairs.dt, self.pairs.nonlinearity
        e_z, act = self.rounded(u), activation(kind)(self.z)
        made = dt * (e_z + u * (2 * act.abs() + properties(kind).error(self.z, act))) + u * self.h.abs()

        def at(t: int, e: Tensor) -> Tensor:
            reach = self.reach(e)
            return made[:, t] + dt * slope_uncertainty(kind, self.z[:, t], e_z[:, t] + reach) * reach

        return _along(self.jacobian, range(self.h.shape[1]), at, torch.zeros_like(self.h[:, :1].sum(1)))

    def adjoint_errors(
        self, u: float, e_before: Tensor, pull: Tensor, pull_last: Tensor, e_pull: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Magnitudes of grad_x, their errors, and the errors of grad_h0, from those of h[t-1] and of pull."""
        e_pull = torch.zeros_like(pull) if e_pull is None else e_pull
        dt, kind = self.pairs.dt, self.pairs.nonlinearity
        u_slope = properties(kind).slope_roundings * u
        e_slope = slope_uncertainty(kind, self.z, self.rounded(u) + self.reach(e_before)) + u_slope
        slope = self.slope.abs() + e_slope
        mu, size, grads = pull_last, torch.zeros_like(pull), torch.zeros_like(pull)
        back = self.jacobian.transpose(-1, -2)
        for t in reversed(range(pull.shape[1])):
            size[:, t] = pull[:, t].abs() + mu.abs()
            grads[:, t] = dt * self.slope[:, t].abs() * (pull[:, t] + mu).abs()
            mu = (back[:, t] @ (pull[:, t] + mu).unflatten(-1, (-1, 2)).unsqueeze(-1)).flatten(-3)
        # lambda = g + mu rounds once, A^T dx up to six times, and coefficients have errors of their own.
        e_alpha, e_omega = (error.repeat_interleave(2) for error in self.pairs.errors(u))
        product = dt * slope * size
        made = 2 * u * size + self.reach(dt * e_slope * size) + e_alpha * product + e_omega * swap_pairs(product)
        made = made + 6 * u * (size + self.reach(product)) + e_pull + self.reach(dt * slope * e_pull)

        def at(t: int, e: Tensor) -> Tensor:
            return made[:, t] + self.reach(dt * e_slope[:, t] * e)

        e_mu, e_first = _along(back, reversed(range(pull.shape[1])), at, torch.zeros_like(pull_last))
        e_lambda = torch.cat((e_mu[:, 1:], torch.zeros_like(e_mu[:, :1])), 1) + 2 * u * size + e_pull
        e_x = dt * (slope * e_lambda + e_slope * size) + LEVELS * u * product
        return grads, e_x, e_first


def _along(
    jacobian: Tensor, order: Iterable[int], made: Callable[[int, Tensor], Tensor], nothing: Tensor
) -> tuple[Tensor, Tensor]:
    """Errors e[t] = sum_k |J[t] ... J[k+1]| made[k] along `order`, at every step and after the last one.

    Args:
        jacobian: (B, T, D // 2, 2, 2).
        order: of the steps.
        made: `(t, error that has arrived)` to what step t adds, (B, D).
        nothing: (B, D) zeros.
    """
    batch, length, pairs = jacobian.shape[:3]
    errors = nothing.new_zeros((batch, length, 2 * pairs))
    # What every step has made in either of its channels, on its way: even and odd parts, (2 T, B, D // 2) each.
    even, odd = nothing.new_zeros((2, 2 * length, batch, pairs))
    arrived = nothing
    for count, t in enumerate(order):
        p, q, turn = even[: 2 * count], odd[: 2 * count], jacobian[:, t]
        p[:], q[:] = turn[..., 0, 0] * p + turn[..., 0, 1] * q, turn[..., 1, 0] * p + turn[..., 1, 1] * q
        even[2 * count], odd[2 * count + 1] = made(t, arrived).unflatten(-1, (pairs, 2)).unbind(-1)
        now = slice(0, 2 * count + 2)
        arrived = torch.stack((even[now].abs().sum(0), odd[now].abs().sum(0)), -1).flatten(-2)
        errors[:, t] = arrived
    return errors, arrived
