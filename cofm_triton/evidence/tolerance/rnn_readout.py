"""Bounds of the recurrence with fused read-out, see `tolerance`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance.bound import Bound, bound_of, differentiate, rounding_of
from cofm_triton.evidence.tolerance.dense_rnn import DenseOrbit, dense_orbit_of
from cofm_triton.evidence.tolerance.orbit import Orbit, orbit_of, slope_uncertainty
from cofm_triton.evidence.tolerance.paired_rnn_scan import PairOrbit, Pairs, swap_pairs
from cofm_triton.ops.shapes import previous_states
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.activations import properties


def rnn_readout_bounds(
    tensors: Sequence[Tensor],
    grad_y: Tensor,
    *,
    dt: float,
    act_in: str,
    act_out: str,
    e_grad: Tensor | None = None,
    u: float | None = None,
) -> dict[str, Bound]:
    """Exact results of the fused read-out and the errors that any correct evaluation stays below.

    The encoder `U x + b` rounds d + 1 times before z is formed, the read-out D + 2 times after the states, whatever the
    order of their terms. The pull `act_out'(h) c^T g` of the read-out enters the adjoint with its own error.

    Args:
        tensors: x (B, T, d), weight U (D, d), bias b (D,), rate (D,), readout c (p, D) and offset (p,) in the dtype
            that is tested; of pairs, rate and, as the seventh, turn, both (D // 2,).
        grad_y: (B, T, p), derivative of a loss by y.
        dt: step.
        act_in: nonlinearity of the recurrence.
        act_out: nonlinearity before the read-out.
        e_grad: how far grad_y itself may be off, (B, T, p) float64; None for not at all.
        u: unit roundoff of the states; None for that of grad_y's dtype.

    Returns:
        "y", and "grad_" with the name of each of the tensors.

    Example:
        >>> one = torch.ones(1, 1)
        >>> given = (torch.ones(1, 2, 1), one, one[0], one[0], one, 0 * one[0])
        >>> bounds = rnn_readout_bounds(given, given[0], dt=1.0, act_in="hardtanh", act_out="linear")
        >>> bounds["y"].exact.flatten().tolist()
        [1.0, 2.0]
    """
    u, dtype = rounding_of(grad_y.dtype) if u is None else u, grad_y.dtype
    tensors = [tensor.double() for tensor in tensors]
    names = ("x", "weight", "bias", "rate", "readout", "offset", "turn")
    signed, g = grad_y.double(), grad_y.double().abs()
    e_g = torch.zeros_like(g) if e_grad is None else e_grad

    def run(
        x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
        turn: Tensor | None = None,
    ) -> tuple[Tensor]:  # fmt: skip
        h, _ = reference.rnn_scan(x @ weight.T + bias, rate, dt=dt, nonlinearity=act_in, frequency=turn)
        return (activation(act_out)(h) @ readout.T + offset,)

    (y,), grads = differentiate(run, tensors, [signed])
    x, weight, _, rate, readout, _, *turn = tensors
    paired = _encoded_pair_orbit(tensors, dt, act_in) if turn else None
    orbit = paired or _encoded_orbit(tensors, dt, act_in)
    out, e_y = read_out(tensors, orbit.h, orbit.state_errors(u)[0], u, act_out)
    pulled = g @ readout.abs()
    pull = (out.slope + out.e_slope) * pulled
    e_pull = out.e_slope * pulled + (len(readout) + 1) * u * pull + (out.slope + out.e_slope) * (e_g @ readout.abs())
    nothing = torch.zeros_like(orbit.h[:, :1].sum(1))
    e_before = previous_states(out.e_state, nothing, None, False)
    if isinstance(orbit, Orbit):
        adjoint = orbit.adjoint_errors(u, out.e_state, pull, e_pull, nothing)
        grad_z, e_z = adjoint.grad_z, adjoint.e_z
    else:
        grad_z, e_z, _ = orbit.adjoint_errors(u, e_before, out.slope * (signed @ readout), nothing, e_pull)
    steps = x.shape[0] * x.shape[1]

    def products(factor: Tensor, e_factor: Tensor) -> Tensor:
        """Error of the sum over sequences and steps of grad_z times a factor with an error, in any order."""
        size = factor.abs()
        return (e_z * size + grad_z * (e_factor + steps * u * (size + e_factor))).sum((0, 1))

    one = torch.ones_like(orbit.h)
    e_weight = [products(x[..., j, None] * one, 0 * one) for j in range(weight.shape[1])]
    flat = [tensor.flatten(0, 1) for tensor in (g + e_g, out.error, out.value.abs(), e_g)]
    errors = {
        "x": e_z @ weight.abs() + (len(weight) + 1) * u * (grad_z @ weight.abs()),
        "weight": torch.stack(e_weight, 1),
        "bias": products(one, 0 * one),
        "rate": _of_modes(products(orbit.before, e_before), rate),
        "readout": flat[0].T @ flat[1] + (steps + 1) * u * (flat[0].T @ (flat[1] + flat[2])) + flat[3].T @ flat[2],
        "offset": steps * u * flat[0].sum(0) + flat[3].sum(0),
    }
    if turn:
        errors["turn"] = _of_modes(products(swap_pairs(orbit.before), swap_pairs(e_before)), rate)
    bounds = {f"grad_{name}": bound_of(grad, errors[name], dtype) for name, grad in zip(names, grads, strict=False)}
    return {"y": bound_of(y, e_y, dtype), **bounds}


def _of_modes(error: Tensor, rate: Tensor) -> Tensor:
    """Errors (D,) summed over the units that share a rate."""
    return error.unflatten(0, (len(rate), -1)).sum(1)


class _Output(NamedTuple):
    """act_out(h), its error, the size of its slope and how far that may be off, and the errors of h; all (B, T, D)."""

    value: Tensor
    error: Tensor
    slope: Tensor
    e_slope: Tensor
    e_state: Tensor


def _encoded_orbit(tensors: Sequence[Tensor], dt: float, act_in: str) -> Orbit:
    """The orbit of a diagonal recurrence of encoded inputs, from float64 tensors."""
    drive, encoding = _encode(*tensors[:3])
    h, _ = reference.rnn_scan(drive, tensors[3], dt=dt, nonlinearity=act_in)
    starts = torch.zeros_like(h[:, :1].sum(1))
    return orbit_of(drive, tensors[3], h, starts, None, dt=dt, nonlinearity=act_in, **encoding)


def _encoded_pair_orbit(tensors: Sequence[Tensor], dt: float, act_in: str) -> PairOrbit:
    """The orbit of pairs with encoded inputs, from float64 tensors."""
    drive, encoding = _encode(*tensors[:3])
    rate, turn = tensors[3], tensors[6]
    h, _ = reference.rnn_scan(drive, rate, dt=dt, nonlinearity=act_in, frequency=turn)
    before = previous_states(h, torch.zeros_like(h[:, :1].sum(1)), None, False)
    pairs = Pairs(rate.clone(), turn.clone(), dt, act_in, "direct", "euler")
    return PairOrbit(pairs, drive, h, before, **encoding)


def _encoded_dense_orbit(tensors: Sequence[Tensor], dt: float, act_in: str) -> DenseOrbit:
    """The orbit of a dense recurrence of encoded inputs, from float64 tensors."""
    drive, encoding = _encode(*tensors[:3])
    h, _ = reference.dense_rnn(drive, tensors[3], dt=dt, nonlinearity=act_in)
    starts = torch.zeros_like(h[:, :1].sum(1))
    return dense_orbit_of(drive, tensors[3], h, starts, dt=dt, nonlinearity=act_in, **encoding)


def encoded_states(tensors: Sequence[Tensor], u: float, dt: float, act_in: str) -> tuple[Tensor, Tensor]:
    """Exact states of encoded inputs and their errors; the rate is one per unit or a matrix."""
    if tensors[3].dim() == 2:
        dense = _encoded_dense_orbit(tensors, dt, act_in)
        return dense.h, dense.state_errors(u)
    orbit = _encoded_orbit(tensors, dt, act_in)
    return orbit.h, orbit.state_errors(u)[0]


def _encode(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, dict[str, Any]]:
    """U x + b, and what it is rounded against how often."""
    scale = x.abs() @ weight.T.abs() + bias.abs()
    return x @ weight.T + bias, dict(drive_scale=scale, drive_roundings=weight.shape[1] + 1)


def read_out(tensors: Sequence[Tensor], h: Tensor, e: Tensor, u: float, act_out: str) -> tuple[_Output, Tensor]:
    """The outputs of the units of a fused read-out, from exact states and their errors, and the errors of y."""
    readout, offset = tensors[4:6]
    value, slope = activation(act_out)(h), activation_slope(act_out)(h)
    e_slope = slope_uncertainty(act_out, h, e) + properties(act_out).slope_roundings * u
    error = (slope.abs() + e_slope) * e + u * properties(act_out).error(h, value)
    e_y = error @ readout.abs().T + (h.shape[2] + 2) * u * (value.abs() @ readout.abs().T + offset.abs())
    return _Output(value, error, slope.abs(), e_slope, e), e_y
