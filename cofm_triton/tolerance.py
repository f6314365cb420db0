"""How far a result may lie from the exact one: bounds derived from the recurrence itself, not chosen.

Let u be the unit roundoff of the state. One step of `h[t] = a h[t-1] + x[t]` rounds the product and the sum, so the
error obeys the recurrence of the states, driven by what a step rounds:

    e[t] <= |a| e[t-1] + 2 u H[t],   H[t] = |a| H[t-1] + |x[t]|,   H[-1] = |h0|

With H, the states of the magnitudes, in place of |h|, this holds for every order of evaluation: a term `a^k x` takes
two roundings per step on its way, whether it goes step by step, by products of decays, or from block to block. Blocked
orders add a few roundings per level of blocks (a power of the decay, the carry's own product and sum), `LEVELS` of
them. A complex product is off by sqrt(5) u and counts as three roundings.

The adjoint is a scan of the same kind, so its bound is the adjoint of the bound: PyTorch differentiates the recurrence
of magnitudes and that of errors, and the derivatives by |x|, |a| and |h0| bound the errors of the gradients. A gradient
that sums N products adds N u times the sum of their magnitudes, the worst of all orders of summation.

The nonlinear recurrence has the error factor `|1 - dt rate s|`, s the slope of act between the exact and the computed
z. A first bound takes s anywhere in [0, 1]; with it, s is known to the error of z times |act''|, which gives the final
one. The adjoint multiplies by `J = 1 - dt rate act'(z)`, with act' as uncertain as that. Hardtanh and relu have jumps
in act': wherever the error of z reaches one, any slope in [0, 1] counts as possible. Rates made of raw parameters are
off by `RATE_ROUNDINGS`, which z and J add to their own, and so is the factor from rate to parameter. Nothing is masked;
the bound grows where data leave the gradient undecided, so test data should keep away from there.

The dense recurrence has the matrix `|I - dt diag(s) W|` in place of that factor, and a product of D terms rounds D + 2
times on the way to z, whatever the order of its terms.

Last, u of the stored dtype times the value for the final rounding. All bounds are of first order in u, enlarged by
`SECOND_ORDER`; they include the error of the exact value itself, which is computed in float64 by the definitions.
Source of the method: running error analysis, N. Higham, "Accuracy and Stability of Numerical Algorithms", 3.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.activation import activation, activation_slope
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import previous_states

Run = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# Roundings that blocked orders add per path of a term, two levels of blocks with three each, and room for the output.
LEVELS = 8
# Roundings of act(z) itself: tanh is good to 2.5 units in the last place, 5 u; the others are exact.
ACT_ROUNDINGS = {"linear": 0, "tanh": 5, "hardtanh": 0, "relu": 0}
# Largest |act''|: of tanh 4 / (3 sqrt(3)).
CURVATURE = {"linear": 0.0, "tanh": 0.7699, "hardtanh": 0.0, "relu": 0.0}
# Roundings of a rate, or of its derivative, made of a raw parameter: two for each of at most three functions like exp
# (one unit in the last place), one for each of at most four operations. None where the parameters are the rates.
RATE_ROUNDINGS = 10
# Where |z| has a kink.
KINKS = {"hardtanh": 1.0, "relu": 0.0}
# Products of two errors, left out: below a thousandth of the bound while the relative errors are.
SECOND_ORDER = 1.01


class Bound(NamedTuple):
    """The exact value of a result, float64 or complex128, and how far a computed one may be from it."""

    exact: Tensor
    error: Tensor

    def excess(self, actual: Tensor) -> float:
        """Largest error over its bound; up to 1 is a pass. Non-finite values count as errors unless exact has them.

        Example:
            >>> Bound(torch.tensor([2.0]), torch.tensor([0.5])).excess(torch.tensor([1.0]))
            2.0
        """
        if actual.shape != self.exact.shape:
            raise ValueError(f"actual must have shape {tuple(self.exact.shape)}, got {tuple(actual.shape)}")
        if actual.numel() == 0:
            return 0.0
        actual = actual.detach()
        error = (actual.to(self.exact.dtype) - self.exact).abs()
        equal = (actual == self.exact) | (actual.isnan() & self.exact.isnan())
        ratio = torch.where(equal, 0.0, error / self.error)
        return float(torch.where(ratio.isnan(), torch.inf, ratio).max())


def unit_roundoff(dtype: torch.dtype) -> float:
    """u: half the distance from 1 to the next number.

    Example:
        >>> unit_roundoff(torch.float32) == 2**-24
        True
    """
    return torch.finfo(dtype).eps / 2


def linear_scan_bounds(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    *,
    reverse: bool = False,
    seq_starts: Tensor | None = None,
) -> dict[str, Bound]:
    """Exact results of `cofm_triton.linear_scan` and the errors that any correct evaluation stays below.

    Args:
        x: (B, T, D) in the dtype that is tested: its unit roundoff and its state's are the u of the bounds.
        decay: (D,), or broadcastable to (B, T, D).
        h0: (B, D) or None; (S, D) with `seq_starts`.
        grad_h: (B, T, D), derivative of a loss by h; None for zeros.
        grad_last: like h_last, derivative of a loss by it; None for zeros.
        reverse: see `linear_scan`.
        seq_starts: see `linear_scan`.

    Returns:
        "h", "h_last", "grad_x", "grad_decay" (in the shape of decay) and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = linear_scan_bounds(torch.ones(1, 2, 1), torch.tensor([0.5]))
        >>> bounds["h"].exact.flatten().tolist(), bool((bounds["h"].error < 1e-5).all())
        ([1.0, 1.5], True)
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    state, last_dtype = state_dtype(x.dtype), x.dtype if h0 is None else h0.dtype
    wide = torch.complex128 if x.is_complex() else torch.float64
    inputs = [x, decay, x.new_zeros((sequences, x.shape[2])) if h0 is None else h0]
    weights = [x.new_zeros(x.shape) if grad_h is None else grad_h]
    weights += [inputs[2].new_zeros(inputs[2].shape) if grad_last is None else grad_last]

    def run(x: Tensor, decay: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.linear_scan(x, decay, h0, reverse=reverse, seq_starts=seq_starts)

    u = _rounding(state)
    steps = 4 if x.is_complex() else 2
    exact, exact_grads = _differentiate(run, [t.to(wide) for t in inputs], [t.to(wide) for t in weights])

    magnitudes = [t.to(wide).abs() for t in inputs]
    magnitudes[1] = magnitudes[1].expand(x.shape).clone()  # one decay per step: terms are summed below
    pulls = [t.to(wide).abs() for t in weights]
    (reach, reach_last), grads = _differentiate(run, magnitudes, pulls)
    # Errors of the states, and the adjoint's way through them: by |a| it is sum(Lambda * e[t-1]).
    nothing = torch.zeros_like(magnitudes[2])
    driven = [steps * u * reach, magnitudes[1], nothing]
    (e, e_last), state_grads = _differentiate(run, driven, pulls)
    # Errors of the adjoint, driven by 2 u Lambda: by |x| they are e_lambda, by |a| sum(e_lambda * H[t-1]).
    _, adjoint_grads = _differentiate(run, magnitudes, [steps * u * grads[0], nothing])

    # A term of grad_decay: stored states enter it, it is rounded, and stored once more if decays are 16 bits wide.
    few = LEVELS * u
    e_term = adjoint_grads[1] + state_grads[1] + (few + _storage(x.dtype) + _storage(decay.dtype)) * grads[1]
    count = x.numel() / max(decay.numel(), 1)
    e_decay = e_term.sum_to_size(decay.shape) + count * u * grads[1].sum_to_size(decay.shape)
    return {
        "h": _bound(exact[0], e + few * reach, x.dtype),
        "h_last": _bound(exact[1], e_last + few * reach_last, last_dtype),
        "grad_x": _bound(exact_grads[0], adjoint_grads[0] + few * grads[0], x.dtype),
        "grad_decay": _bound(exact_grads[1], e_decay, decay.dtype),
        "grad_h0": _bound(exact_grads[2], adjoint_grads[2] + few * grads[2], last_dtype),
    }


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
) -> dict[str, Bound]:
    """Exact results of `cofm_triton.rnn_scan` and the errors that any correct evaluation stays below.

    Args:
        x: (B, T, D) in the dtype that is tested.
        rate: (D,), raw parameters.
        h0: (B, D) or None; (S, D) with `seq_starts`.
        grad_h: (B, T, D), derivative of a loss by h; None for zeros.
        grad_last: like h_last, derivative of a loss by it; None for zeros.
        dt: see `rnn_scan`.
        nonlinearity: see `rnn_scan`.
        parameterization: see `rnn_scan`.
        discretization: see `rnn_scan`.
        seq_starts: see `rnn_scan`.

    Returns:
        "h", "h_last", "grad_x", "grad_rate" and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = rnn_scan_bounds(torch.full((1, 2, 1), 5.0), torch.tensor([1.0]))
        >>> bounds["h"].exact.flatten().tolist()
        [1.0, 2.0]
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    last_dtype = x.dtype if h0 is None else h0.dtype
    starts = (x.new_zeros((sequences, x.shape[2])) if h0 is None else h0).double()
    pull = x.new_zeros(x.shape).double() if grad_h is None else grad_h.double()
    pull_last = torch.zeros_like(starts) if grad_last is None else grad_last.double()

    def run(x: Tensor, rate: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rnn_scan(x, rate, h0, dt=dt, nonlinearity=nonlinearity, seq_starts=seq_starts)

    def step_rate(w: Tensor) -> Tensor:
        return reference.effective_rate(reference.parameterization(parameterization).rate(w), dt, discretization)

    u = _rounding(state_dtype(x.dtype))
    made_of = 0 if (parameterization, discretization) == ("direct", "euler") else RATE_ROUNDINGS
    w = rate.double().requires_grad_()
    raw = step_rate(w)
    (by_w,) = torch.autograd.grad(raw.sum(), w)
    inputs = [x.double(), raw.detach(), starts]
    exact, exact_grads = _differentiate(run, inputs, [pull, pull_last])
    h = exact[0]
    before = previous_states(h, starts, seq_starts, False)
    z = inputs[0] - inputs[1] * before
    scale = inputs[0].abs() + (inputs[1] * before).abs()  # what z is rounded against
    act = activation(nonlinearity)(z).abs()

    slope = activation_slope(nonlinearity)(z)
    turn = dt * inputs[1].abs()

    def uncertainty(e_state: Tensor) -> Tensor:
        """How far act'(z) may be off when z is formed from states with these errors."""
        e_before = previous_states(e_state, torch.zeros_like(starts), seq_starts, False)
        e_z = (2 + made_of) * u * scale + inputs[1].abs() * e_before
        if nonlinearity in KINKS:
            return torch.where((z.abs() - KINKS[nonlinearity]).abs() <= SECOND_ORDER * e_z, 1.0, 0.0).double()
        return CURVATURE[nonlinearity] * e_z

    # Forward: z takes two roundings and the rate's, dt * act(z) two and act's own, the sum one.
    made = u * (dt * ((2 + made_of) * scale + (2 + ACT_ROUNDINGS[nonlinearity]) * act) + h.abs())
    growth = (1 - dt * inputs[1]).abs()
    growth = growth if nonlinearity == "linear" else growth.clamp(min=1)
    rough, _ = reference.linear_scan(made, growth, torch.zeros_like(starts), seq_starts=seq_starts)
    growth = (1 - dt * inputs[1] * slope).abs() + turn * uncertainty(rough)
    e, e_last = reference.linear_scan(made, growth, torch.zeros_like(starts), seq_starts=seq_starts)

    # The adjoint forms z again from x and stored states, or from states recomputed from an earlier stored one.
    stored = e + _storage(x.dtype) * (h.abs().cummax(1).values if h.shape[1] else h)
    e_before = previous_states(stored, torch.zeros_like(starts), seq_starts, False)
    e_slope = uncertainty(stored)
    if nonlinearity == "tanh":  # formed as 1 - u^2
        e_slope = e_slope + 2 * (1 + ACT_ROUNDINGS[nonlinearity]) * u
    jacobian = (1 - dt * inputs[1] * slope).abs() + turn * e_slope

    def adjoint(drive: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
        """Sums over later steps of |J| ... |J| drive, as they arrive at each step, and before the first one."""
        v, first = reference.linear_scan(jacobian * drive, jacobian, end, reverse=True, seq_starts=seq_starts)
        return previous_states(v, end, seq_starts, True), first

    mu, mu_first = adjoint(pull.abs(), pull_last.abs())
    reach = pull.abs() + mu  # Lambda, the magnitudes of the adjoint
    # lambda = g + mu rounds once, J lambda up to six times, besides the rate.
    error_made = reach * (turn * e_slope + (6 + made_of) * u * (1 + turn * slope))
    e_mu, e_first = reference.linear_scan(
        error_made, jacobian, torch.zeros_like(starts), reverse=True, seq_starts=seq_starts
    )
    e_lambda = previous_states(e_mu, torch.zeros_like(starts), seq_starts, True) + 2 * u * reach
    grad_x = dt * (slope + e_slope) * reach
    e_x = dt * ((slope + e_slope) * e_lambda + reach * e_slope) + LEVELS * u * grad_x
    e_rate = (e_x * before.abs() + grad_x * e_before).sum((0, 1))
    e_rate = e_rate + x.shape[0] * x.shape[1] * u * (grad_x * (before.abs() + e_before)).sum((0, 1))
    # d rate / d w of an exact step holds exp(-dt f(w)), which multiplies the error of its exponent.
    e_rate = by_w.abs() * (e_rate + made_of * u * (2 - (1 - turn).log()) * exact_grads[1].abs()) if made_of else e_rate
    return {
        "h": _bound(exact[0], e, x.dtype),
        "h_last": _bound(exact[1], e_last, last_dtype),
        "grad_x": _bound(exact_grads[0], e_x, x.dtype),
        "grad_rate": _bound(by_w * exact_grads[1], e_rate, rate.dtype),
        "grad_h0": _bound(exact_grads[2], e_first + LEVELS * u * mu_first, last_dtype),
    }


def dense_rnn_bounds(
    x: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
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
        return reference.dense_rnn(x, weight, h0, dt=dt, nonlinearity=nonlinearity)

    u = _rounding(state_dtype(x.dtype))
    inputs = [x.double(), weight.double(), starts]
    exact, exact_grads = _differentiate(run, inputs, [pull, pull_last])
    h, matrix = exact[0], inputs[1]
    size, eye, nothing = len(matrix), torch.eye(len(matrix), dtype=torch.float64), torch.zeros_like(starts)
    before = previous_states(h, starts, None, False)
    z = inputs[0] - before @ matrix.T
    scale = inputs[0].abs() + before.abs() @ matrix.abs().T  # what z is rounded against
    slope = activation_slope(nonlinearity)(z)
    roundings = (size + 2) * u

    def uncertainty(e_before: Tensor, t: int | slice) -> Tensor:
        """How far act'(z) may be off at the steps t when z is formed from earlier states with these errors."""
        e_z = roundings * scale[:, t] + e_before @ matrix.abs().T
        if nonlinearity in KINKS:
            kink = (z[:, t].abs() - KINKS[nonlinearity]).abs() <= SECOND_ORDER * e_z
            return torch.where(kink, 1.0, 0.0).double()
        return CURVATURE[nonlinearity] * e_z

    def growth(e_slope: Tensor, t: int | slice) -> Tensor:
        """|I - dt diag(s) W| for every s within e_slope of act'(z), (..., D, D)."""
        exactly = (eye - dt * slope[:, t].unsqueeze(-1) * matrix).abs()
        return exactly + dt * e_slope.unsqueeze(-1) * matrix.abs()

    act = activation(nonlinearity)(z).abs()
    made = u * (dt * ((size + 2) * scale + (2 + ACT_ROUNDINGS[nonlinearity]) * act) + h.abs())
    # Step by step: a slope is as uncertain as the error that has reached it, and no more.
    e_state, errors = nothing, []
    for t in range(h.shape[1]):
        e_state = (growth(uncertainty(e_state, t), t) @ e_state.unsqueeze(-1)).squeeze(-1) + made[:, t]
        errors.append(e_state)
    e = torch.stack(errors, 1) if errors else made

    # The adjoint takes the slopes from the forward pass, or forms them again from stored states.
    stored = e + _storage(x.dtype) * h.abs()
    every = slice(None)
    e_slope = uncertainty(previous_states(stored, nothing, None, False), every)
    if nonlinearity == "tanh":  # formed as 1 - u^2
        e_slope = e_slope + 2 * (1 + ACT_ROUNDINGS[nonlinearity]) * u
    jacobian, turn = growth(e_slope, every), matrix.abs().T
    mu, e_mu, rows = pull_last.abs(), nothing, []
    for t in reversed(range(x.shape[1])):
        reach = pull[:, t].abs() + mu  # Lambda, the magnitude of the adjoint
        e_lambda = e_mu + 2 * u * reach
        product = (slope[:, t] + e_slope[:, t]) * reach
        rows.append((dt * product, dt * ((slope[:, t] + e_slope[:, t]) * e_lambda + reach * e_slope[:, t])))
        back = jacobian[:, t].transpose(1, 2)
        mu = (back @ reach.unsqueeze(-1)).squeeze(-1)
        e_mu = (back @ e_lambda.unsqueeze(-1)).squeeze(-1) + dt * (reach * e_slope[:, t]) @ turn.T
        e_mu = e_mu + (size + 6) * u * (reach + dt * product @ turn.T)
    # Two columns, from the last step to the first.
    grad_x, e_x = (
        torch.stack([row[column] for row in reversed(rows)], 1) if rows else x.double() for column in range(2)
    )
    e_x = e_x + LEVELS * u * grad_x
    e_before = previous_states(stored, nothing, None, False)
    flat = [tensor.flatten(0, 1) for tensor in (grad_x, e_x, before.abs(), e_before)]
    e_weight = flat[1].T @ flat[2] + flat[0].T @ flat[3]
    e_weight = e_weight + x.shape[0] * x.shape[1] * u * (flat[0].T @ (flat[2] + flat[3]))
    return {
        "h": _bound(exact[0], e, x.dtype),
        "h_last": _bound(exact[1], e[:, -1] if x.shape[1] else nothing, last_dtype),
        "grad_x": _bound(exact_grads[0], e_x, x.dtype),
        "grad_weight": _bound(exact_grads[1], e_weight, weight.dtype),
        "grad_h0": _bound(exact_grads[2], e_mu + LEVELS * u * mu, last_dtype),
    }


def _differentiate(run: Run, inputs: list[Tensor], weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Results of `run`, and the gradients of `sum(weights * results)` by its inputs."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    results = run(*leaves)
    grads = torch.autograd.grad(results, leaves, weights)
    return [result.detach() for result in results], list(grads)


def _rounding(dtype: torch.dtype) -> float:
    """u of the state, and that of the exact value in float64."""
    return unit_roundoff(dtype) + unit_roundoff(torch.float64)


def _storage(dtype: torch.dtype) -> float:
    """u of a dtype narrower than the state, whose numbers are rounded once more when stored."""
    return unit_roundoff(dtype) if state_dtype(dtype) != dtype else 0.0


def _bound(exact: Tensor, error: Tensor, dtype: torch.dtype) -> Bound:
    """Adds the final rounding to `dtype`, relative, and absolute below the normal numbers of it and of the state."""
    limits, state_limits = torch.finfo(dtype), torch.finfo(state_dtype(dtype))
    least = limits.smallest_normal * limits.eps + state_limits.smallest_normal
    rounded = error + _storage(dtype) * (exact.abs() + error) + least
    return Bound(exact, SECOND_ORDER * rounded)
