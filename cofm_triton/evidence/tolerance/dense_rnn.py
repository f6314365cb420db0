"""Bounds of the dense recurrence, see `tolerance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance.bound import LEVELS, Bound, bound_of, differentiate, rounding_of, stored_error
from cofm_triton.evidence.tolerance.orbit import slope_uncertainty
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import previous_states
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.activations import properties


@dataclass(frozen=True)
class DenseOrbit:
    """The exact states of a dense recurrence, and the errors that grow along them.

    Attributes:
        weight, dt, nonlinearity: of the recurrence.
        h: exact states, (B, T, D).
        z: pre-activations.
        scale: what z is rounded against.
        roundings: of z.
        resets: (B, T), where episodes begin, before whose first step a state has no error; None for nowhere.
    """

    weight: Tensor
    dt: float
    nonlinearity: str
    h: Tensor
    z: Tensor
    scale: Tensor
    roundings: int
    resets: Tensor | None = None

    @property
    def slope(self) -> Tensor:
        """act'(z)."""
        return activation_slope(self.nonlinearity)(self.z)

    def uncertainty(self, e_before: Tensor, t: int | slice, u: float) -> Tensor:
        """How far act'(z) may be off at the steps t when z is formed from earlier states with these errors."""
        e_z = self.roundings * u * self.scale[:, t] + e_before @ self.weight.abs().T
        return slope_uncertainty(self.nonlinearity, self.z[:, t], e_z)

    def growth(self, e_slope: Tensor, t: int | slice) -> Tensor:
        """|I - dt diag(s) W| for every s within e_slope of act'(z), (..., D, D)."""
        eye = torch.eye(len(self.weight), dtype=torch.float64)
        exactly = (eye - self.dt * self.slope[:, t].unsqueeze(-1) * self.weight).abs()
        return exactly + self.dt * e_slope.unsqueeze(-1) * self.weight.abs()

    def within(self, error: Tensor, t: int) -> Tensor:
        """What of a state's error, or of an adjoint (B, D), crosses from step t - 1 to t: nothing where one begins."""
        return error if self.resets is None else error.masked_fill(self.resets[:, t, None], 0)

    def state_errors(self, u: float) -> Tensor:
        """Errors of h. Step by step: a slope is as uncertain as the error that has reached it, and no more."""
        act = activation(self.nonlinearity)(self.z)
        rounded = self.roundings * self.scale + 2 * act.abs() + properties(self.nonlinearity).error(self.z, act)
        made = self.dt * rounded + self.h.abs()
        e_state, errors = torch.zeros_like(self.h[:, :1].sum(1)), []
        for t in range(self.h.shape[1]):
            e_state = self.within(e_state, t)
            grown = (self.growth(self.uncertainty(e_state, t, u), t) @ e_state.unsqueeze(-1)).squeeze(-1)
            bound = properties(self.nonlinearity).bound
            grown = grown.minimum(e_state + 2 * self.dt * bound)  # whatever z is, |act(z)| is at most that
            e_state = grown + u * made[:, t]
            errors.append(e_state)
        return torch.stack(errors, 1) if errors else made


def dense_orbit_of(
    drive: Tensor, weight: Tensor, h: Tensor, starts: Tensor, *, dt: float, nonlinearity: str,
    drive_scale: Tensor | None = None, drive_roundings: int = 0, resets: Tensor | None = None,
    reset_to: str = "h0",
) -> DenseOrbit:  # fmt: skip
    """The orbit of exact states h; z = drive - W h[t-1] rounds D + 2 times, in any order."""
    before = previous_states(h, starts, None, False, resets, reset_to)
    scale = (drive.abs() if drive_scale is None else drive_scale) + before.abs() @ weight.abs().T
    roundings = len(weight) + 2 + drive_roundings
    return DenseOrbit(weight, dt, nonlinearity, h, drive - before @ weight.T, scale, roundings, resets)


def dense_rnn_bounds(
    x: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> dict[str, Bound]:
    """Exact results of `cofm_triton.dense_rnn` and the errors that any correct evaluation stays below.

    Args:
        x: (B, T, D) in the dtype that is tested.
        weight: (D, D).
        h0: (B, D) or None.
        grad_h: (B, T, D), derivative of a loss by h; None for zeros.
        grad_last: like h_last, derivative of a loss by it; None for zeros.
        dt: see `dense_rnn`.
        nonlinearity: see `dense_rnn`.
        resets: see `dense_rnn`.
        reset_to: see `dense_rnn`.

    Returns:
        "h", "h_last", "grad_x", "grad_weight" and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = dense_rnn_bounds(torch.full((1, 2, 1), 5.0), torch.ones(1, 1))
        >>> bounds["h"].exact.flatten().tolist()
        [1.0, 2.0]
    """
    last_dtype = x.dtype if h0 is None else h0.dtype
    starts = (x.new_zeros((x.shape[0], x.shape[2])) if h0 is None else h0).double()
    pull = x.new_zeros(x.shape).double() if grad_h is None else grad_h.double()
    pull_last = torch.zeros_like(starts) if grad_last is None else grad_last.double()

    def run(x: Tensor, weight: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = dict(dt=dt, nonlinearity=nonlinearity, resets=resets, reset_to=reset_to)
        return reference.dense_rnn(x, weight, h0, **options)

    u = rounding_of(state_dtype(x.dtype))
    inputs = [x.double(), weight.double(), starts]
    exact, exact_grads = differentiate(run, inputs, [pull, pull_last])
    h, matrix = exact[0], inputs[1]
    size, nothing = len(matrix), torch.zeros_like(starts)
    before = previous_states(h, starts, None, False, resets, reset_to)
    orbit = dense_orbit_of(
        inputs[0], matrix, h, starts, dt=dt, nonlinearity=nonlinearity, resets=resets, reset_to=reset_to
    )
    slope, e = orbit.slope.abs(), orbit.state_errors(u)

    # The adjoint takes the slopes from the forward pass, or forms them again from stored states.
    stored = e + stored_error(h.abs(), x.dtype)
    every = slice(None)
    e_before = previous_states(stored, nothing, None, False, resets, reset_to)
    e_slope = orbit.uncertainty(e_before, every, u) + properties(nonlinearity).slope_roundings * u
    jacobian, turn = orbit.growth(e_slope, every), matrix.abs().T
    mu, e_mu, rows = pull_last.abs(), nothing, []
    start, e_start = nothing, nothing  # what arrives at the beginnings of episodes
    for t in reversed(range(x.shape[1])):
        reach = pull[:, t].abs() + mu  # Lambda, the magnitude of the adjoint
        e_lambda = e_mu + 2 * u * reach
        product = (slope[:, t] + e_slope[:, t]) * reach
        rows.append((dt * product, dt * ((slope[:, t] + e_slope[:, t]) * e_lambda + reach * e_slope[:, t])))
        back = jacobian[:, t].transpose(1, 2)
        mu = (back @ reach.unsqueeze(-1)).squeeze(-1)
        e_mu = (back @ e_lambda.unsqueeze(-1)).squeeze(-1) + dt * (reach * e_slope[:, t]) @ turn.T
        e_mu = e_mu + (size + 6) * u * (reach + dt * product @ turn.T)
        if reset_to == "h0":
            start, e_start = start + mu - orbit.within(mu, t), e_start + e_mu - orbit.within(e_mu, t)
        mu, e_mu = orbit.within(mu, t), orbit.within(e_mu, t)
    # Two columns, from the last step to the first.
    grad_x, e_x = (
        torch.stack([row[column] for row in reversed(rows)], 1) if rows else x.double() for column in range(2)
    )
    e_x = e_x + LEVELS * u * grad_x
    sums = LEVELS if resets is None else LEVELS + x.shape[1]  # an episode is one more term
    flat = [tensor.flatten(0, 1) for tensor in (grad_x, e_x, before.abs(), e_before)]
    e_weight = flat[1].T @ flat[2] + flat[0].T @ flat[3]
    e_weight = e_weight + x.shape[0] * x.shape[1] * u * (flat[0].T @ (flat[2] + flat[3]))
    return {
        "h": bound_of(exact[0], e, x.dtype),
        "h_last": bound_of(exact[1], e[:, -1] if x.shape[1] else nothing, last_dtype),
        "grad_x": bound_of(exact_grads[0], e_x, x.dtype),
        "grad_weight": bound_of(exact_grads[1], e_weight, weight.dtype),
        "grad_h0": bound_of(exact_grads[2], e_mu + e_start + sums * u * (mu + start), last_dtype),
    }
