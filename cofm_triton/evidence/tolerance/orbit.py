"""The exact states of a diagonal nonlinear recurrence, and the errors that grow along them, see `tolerance`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance.bound import LEVELS, SECOND_ORDER
from cofm_triton.ops.shapes import previous_states
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.activations import properties


class _Adjoint(NamedTuple):
    """Magnitudes and errors of the gradients by z, (B, T, D), and of what leaves the first step, (S, D)."""

    grad_z: Tensor
    e_z: Tensor
    first: Tensor
    e_first: Tensor


@dataclass(frozen=True)
class Orbit:
    """The exact states of a diagonal recurrence, and the errors that grow along them.

    Attributes:
        rate, dt, nonlinearity, seq_starts: of the recurrence.
        h: exact states, (B, T, D).
        before: the states h[t-1].
        z: pre-activations.
        scale: what z is rounded against.
        roundings: of z.
        rate_roundings: of the rate, which z has too.
        zero: no error of the initial states, (S, D).
    """

    rate: Tensor
    dt: float
    nonlinearity: str
    seq_starts: Tensor | None
    h: Tensor
    before: Tensor
    z: Tensor
    scale: Tensor
    roundings: int
    rate_roundings: int
    zero: Tensor

    @property
    def slope(self) -> Tensor:
        """act'(z)."""
        return activation_slope(self.nonlinearity)(self.z)

    def earlier(self, errors: Tensor) -> Tensor:
        """Errors of h[t-1] from those of h[t]."""
        return previous_states(errors, self.zero, self.seq_starts, False)

    def uncertainty(self, e_state: Tensor, u: float) -> Tensor:
        """How far act'(z) may be off when z is formed from states with these errors."""
        e_z = self.roundings * u * self.scale + self.rate.abs() * self.earlier(e_state)
        return slope_uncertainty(self.nonlinearity, self.z, e_z)

    def state_errors(self, u: float) -> tuple[Tensor, Tensor]:
        """Errors of h and of the last states."""
        # z takes its roundings, dt * act(z) two and act's own, the sum one.
        act = activation(self.nonlinearity)(self.z)
        rounded = self.roundings * self.scale + 2 * act.abs() + properties(self.nonlinearity).error(self.z, act)
        made = self.dt * rounded + self.h.abs()
        made = u * made
        least, most = ((1 - self.dt * self.rate * s).abs() for s in properties(self.nonlinearity).slopes)
        growth = torch.maximum(least, most)
        rough, _ = reference.linear_scan(made, growth, self.zero, seq_starts=self.seq_starts)
        growth = (1 - self.dt * self.rate * self.slope).abs() + self.dt * self.rate.abs() * self.uncertainty(rough, u)
        return reference.linear_scan(made, growth, self.zero, seq_starts=self.seq_starts)

    def adjoint_errors(self, u: float, stored: Tensor, pull: Tensor, e_pull: Tensor, pull_last: Tensor) -> _Adjoint:
        """Errors of the backward pass.

        Args:
            u: unit roundoff of the state.
            stored: errors of the states that it reads.
            pull: magnitude of the derivative of the loss by h.
            e_pull: its error.
            pull_last: magnitude of the derivative by the last states.
        """
        slope, turn, starts = self.slope, self.dt * self.rate.abs(), self.seq_starts
        e_slope = self.uncertainty(stored, u) + properties(self.nonlinearity).slope_roundings * u
        jacobian = (1 - self.dt * self.rate * slope).abs() + turn * e_slope
        back: dict[str, Any] = dict(reverse=True, seq_starts=starts)
        mu, first = reference.linear_scan(jacobian * pull, jacobian, pull_last, **back)
        reach = pull + previous_states(mu, pull_last, starts, True)  # Lambda, the magnitudes of the adjoint
        # lambda = g + mu rounds once, J lambda up to six times, besides the rate.
        made = reach * (turn * e_slope + (6 + self.rate_roundings) * u * (1 + turn * slope.abs())) + jacobian * e_pull
        e_mu, e_first = reference.linear_scan(made, jacobian, self.zero, **back)
        e_lambda = e_pull + previous_states(e_mu, self.zero, starts, True) + 2 * u * reach
        grad_z = self.dt * (slope.abs() + e_slope) * reach
        e_z = self.dt * ((slope.abs() + e_slope) * e_lambda + reach * e_slope) + LEVELS * u * grad_z
        return _Adjoint(grad_z, e_z, first, e_first)

    def product_errors(
        self, u: float, adjoint: _Adjoint, factor: Tensor, e_factor: Tensor, shape: torch.Size
    ) -> Tensor:
        """Error of grad_z times a factor with an error, (D,) summed over sequences and steps, or (B, T, D): `shape`."""
        count = factor.shape[0] * factor.shape[1] if len(shape) == 1 else LEVELS
        rounded = count * u * adjoint.grad_z * (factor.abs() + e_factor)
        return (adjoint.e_z * factor.abs() + adjoint.grad_z * e_factor + rounded).sum_to_size(shape)


def orbit_of(
    drive: Tensor, rate: Tensor, h: Tensor, starts: Tensor, seq_starts: Tensor | None, *, dt: float,
    nonlinearity: str, drive_scale: Tensor | None = None, drive_roundings: int = 0, rate_roundings: int = 0,
) -> Orbit:  # fmt: skip
    """The orbit of exact states h; z = drive - rate h[t-1] rounds twice, after the drive against its own scale."""
    before = previous_states(h, starts, seq_starts, False)
    pulled = rate * before
    scale = (drive.abs() if drive_scale is None else drive_scale) + pulled.abs()
    zero = torch.zeros_like(starts)
    roundings = 2 + drive_roundings + rate_roundings
    return Orbit(rate, dt, nonlinearity, seq_starts, h, before, drive - pulled, scale, roundings, rate_roundings, zero)


def slope_uncertainty(nonlinearity: str, z: Tensor, e_z: Tensor) -> Tensor:
    """How far act' may be off at a z with an error: any of its slopes counts within reach of a jump."""
    act = properties(nonlinearity)
    uncertain = (act.curvature * e_z).clamp(max=act.slope_range)
    for kink in act.kinks:
        uncertain = torch.where((z - kink).abs() <= SECOND_ORDER * e_z, act.slope_range, uncertain)
    return uncertain
