"""Bounds of the errors of perturbed models and of their gradients, see `tolerance`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from cofm_triton.evidence.tolerance.bound import Bound, bound_of, rounding_of, unit_roundoff
from cofm_triton.evidence.tolerance.rnn_readout import encoded_states, read_out, rnn_readout_bounds


def sweep_errors_bounds(
    models: Sequence[Sequence[Tensor]], x: Tensor, targets: Tensor, weights: Tensor | None, *,
    dt: float, act_in: str, act_out: str,
) -> dict[str, Bound]:  # fmt: skip
    """Exact errors of K models on the same sequences, and how far computed ones may be off.

    Outputs have the errors of the fused read-out, and a gap is rounded once; gaps are squared, weighted and summed in
    float64, whatever the dtype of the states.

    Args:
        models: weight, bias, rate, readout and offset of each, as `rnn_readout_bounds` has them; the rate may be a
            matrix, (D, D), of a dense recurrence.
        x: (N, T, d) in the dtype that is tested.
        targets: (N, T, p), likewise.
        weights: (T,), of squared gaps; None for the largest gap.
        dt: step.
        act_in: nonlinearity of the recurrence.
        act_out: nonlinearity before the read-out.

    Returns:
        "errors", (K,).
    """
    u, u64 = rounding_of(x.dtype), unit_roundoff(torch.float64)
    exact, errors = [], []
    for model in models:
        tensors = [tensor.double() for tensor in (x, *model)]
        h, e = encoded_states(tensors, u, dt, act_in)
        out, e_y = read_out(tensors, h, e, u, act_out)
        gap = out.value @ tensors[4].T + tensors[5] - targets.double()
        e_gap = e_y + u * (gap.abs() + e_y)
        if weights is None:
            exact.append(gap.abs().max())
            errors.append(e_gap.max())
        else:
            exact.append((weights[:, None] * gap.square()).sum())
            most = (weights[:, None] * (gap.abs() + e_gap).square()).sum()
            errors.append(most - exact[-1] + (gap.numel() + 3) * 2 * u64 * most)
    return {"errors": bound_of(torch.stack(exact), torch.stack(errors), torch.float64)}


def sweep_gradients_bounds(
    models: Sequence[Sequence[Tensor]], x: Tensor, targets: Tensor, weights: Tensor, *,
    dt: float, act_in: str, act_out: str,
) -> dict[str, Bound]:  # fmt: skip
    """Exact errors of K models and their derivatives by the coefficients, and how far computed ones may be off.

    The derivative 2 w (y - target) of an error by y is as uncertain as the gap, and rounds three times more; from there
    on the adjoint of the fused read-out follows. Arguments as for `sweep_errors_bounds`, with weights and rates.

    Returns:
        "errors", (K,), and "grad_" with the name of each coefficient, stacked.
    """
    u = rounding_of(x.dtype)
    columns: dict[str, list[Bound]] = {}
    for model in models:
        tensors = [tensor.double() for tensor in (x, *model)]
        h, e = encoded_states(tensors, u, dt, act_in)
        out, e_y = read_out(tensors, h, e, u, act_out)
        gap = out.value @ tensors[4].T + tensors[5] - targets.double()
        twice = 2 * weights[:, None]
        e_grad = twice * (e_y + 4 * u * (gap.abs() + e_y))
        bounds = rnn_readout_bounds(tensors, twice * gap, dt=dt, act_in=act_in, act_out=act_out, e_grad=e_grad, u=u)
        for name in ("weight", "bias", "rate", "readout", "offset"):
            columns.setdefault(f"grad_{name}", []).append(bounds[f"grad_{name}"])
    gradients = {
        name: Bound(*(torch.stack(part) for part in zip(*column, strict=True))) for name, column in columns.items()
    }
    errors = sweep_errors_bounds(models, x, targets, weights, dt=dt, act_in=act_in, act_out=act_out)
    return errors | gradients
