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

Pairs of units have a matrix J[t] = I - dt S[t] A for each pair and step in place of the factor. Its entries' magnitudes
would grow where the pair merely turns, so that here every error is followed along the exact products of matrices:

    e[t] <= sum_k |J[t] ... J[k+1]| made[k]

with what step k rounds, made[k], in which the uncertainty of its slopes is. Coefficients made of rates and frequencies
are off by `RATE_ROUNDINGS` of themselves and of what their factors' arguments, dt r and dt w, make of a rounding.

The dense recurrence has the matrix `|I - dt diag(s) W|` in place of that factor, and a product of D terms rounds D + 2
times on the way to z, whatever the order of its terms.

The fused read-out forms its drive with d + 1 roundings more, and sums D outputs after the recurrence; what it pulls
back, `act_out'(h) c^T g`, enters the adjoint with the errors of h in act_out'. A sweep's errors have those of its
outputs, and the memory recursion obeys the error recurrence of z in place of h.

Last, u of the stored dtype times the value for the final rounding. All bounds are of first order in u, enlarged by
`SECOND_ORDER`; they include the error of the exact value itself, which is computed in float64 by the definitions.
Source of the method: running error analysis, N. Higham, "Accuracy and Stability of Numerical Algorithms", 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import previous_states
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.pairs import as_complex, as_reals, in_pairs

Run = Callable[..., tuple[Tensor, ...]]

# Roundings that blocked orders add per path of a term, two levels of blocks with three each, and room for the output.
LEVELS = 8
# Roundings of act(z) itself: tanh is good to 2.5 units in the last place, 5 u; the others are exact.
ACT_ROUNDINGS = {"linear": 0, "tanh": 5, "hardtanh": 0, "relu": 0}
# Largest |act''|: of tanh 4 / (3 sqrt(3)).
CURVATURE = {"linear": 0.0, "tanh": 0.7699, "hardtanh": 0.0, "relu": 0.0}
# Roundings of a rate, or of its derivative, made of a raw parameter: two for each of at most three functions like exp
# (one unit in the last place), one for each of at most four operations. None where the parameters are the rates.
RATE_ROUNDINGS = 10
# Whose values stay within [-1, 1].
SATURATING = ("tanh", "hardtanh")
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
        decay: (D,), or broadcastable to (B, T, D); (D // 2,) or (B, T, D // 2) if complex with a real x.
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
    wide, pairs = torch.complex128 if decay.is_complex() else torch.float64, in_pairs(x, decay)
    inputs = [x, decay, x.new_zeros((sequences, x.shape[2])) if h0 is None else h0]
    weights = [x.new_zeros(x.shape) if grad_h is None else grad_h]
    weights += [inputs[2].new_zeros(inputs[2].shape) if grad_last is None else grad_last]
    if pairs:  # what bounds the error of a complex number bounds those of its parts
        inputs = [as_complex(inputs[0].double()), decay, as_complex(inputs[2].double())]
        weights = [as_complex(weight.double()) for weight in weights]

    def run(x: Tensor, decay: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.linear_scan(x, decay, h0, reverse=reverse, seq_starts=seq_starts)

    u = _rounding(state)
    steps = 4 if decay.is_complex() else 2
    exact, exact_grads = _differentiate(run, [t.to(wide) for t in inputs], [t.to(wide) for t in weights])

    magnitudes = [t.to(wide).abs() for t in inputs]
    magnitudes[1] = magnitudes[1].expand(inputs[0].shape).clone()  # one decay per step: terms are summed below
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
    count = inputs[0].numel() / max(decay.numel(), 1)
    e_decay = e_term.sum_to_size(decay.shape) + count * u * grads[1].sum_to_size(decay.shape)
    bounds = {
        "h": _bound(exact[0], e + few * reach, x.dtype),
        "h_last": _bound(exact[1], e_last + few * reach_last, last_dtype),
        "grad_x": _bound(exact_grads[0], adjoint_grads[0] + few * grads[0], x.dtype),
        "grad_decay": _bound(exact_grads[1], e_decay, decay.dtype),
        "grad_h0": _bound(exact_grads[2], adjoint_grads[2] + few * grads[2], last_dtype),
    }
    return {k: _of_parts(v) if pairs and k != "grad_decay" else v for k, v in bounds.items()}


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
    drive: float = 1.0,
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
        drive: errors of a step that a solver allows, in roundings of one; see `ops/newton.py`.

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
    orbit = _orbit(
        inputs[0], inputs[1], h, starts, seq_starts, dt=dt, nonlinearity=nonlinearity, rate_roundings=made_of
    )
    e, e_last = orbit.state_errors(u, drive=drive)
    # The adjoint forms z again from x and stored states, or from states recomputed from an earlier stored one.
    stored = e + _storage(x.dtype) * (h.abs().cummax(1).values if h.shape[1] else h)
    adjoint = orbit.adjoint_errors(u, stored, pull.abs(), torch.zeros_like(h), pull_last.abs())
    e_rate = orbit.product_errors(u, adjoint, orbit.before, orbit.earlier(stored))
    if made_of:
        # d rate / d w of an exact step holds exp(-dt f(w)), which multiplies the error of its exponent.
        exponent = -(-dt * inputs[1].abs()).log1p() if discretization == "exact" else 0.0
        e_rate = by_w.abs() * (e_rate + made_of * u * (2 + exponent) * exact_grads[1].abs())
    return {
        "h": _bound(exact[0], e, x.dtype),
        "h_last": _bound(exact[1], e_last, last_dtype),
        "grad_x": _bound(exact_grads[0], adjoint.e_z, x.dtype),
        "grad_rate": _bound(by_w * exact_grads[1], e_rate, rate.dtype),
        "grad_h0": _bound(exact_grads[2], adjoint.e_first + LEVELS * u * adjoint.first, last_dtype),
    }


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

    Returns:
        "h", "h_last", "grad_x", "grad_rate", "grad_frequency" and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = paired_rnn_scan_bounds(torch.full((1, 2, 2), 5.0), torch.ones(1), torch.zeros(1))
        >>> bounds["h"].exact.flatten().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    last_dtype = x.dtype if h0 is None else h0.dtype
    starts = (x.new_zeros((sequences, x.shape[2])) if h0 is None else h0).double()
    pull = x.new_zeros(x.shape).double() if grad_h is None else grad_h.double()
    pull_last = torch.zeros_like(starts) if grad_last is None else grad_last.double()
    u = _rounding(state_dtype(x.dtype))
    pairs = _Pairs(rate.double(), frequency.double(), dt, nonlinearity, parameterization, discretization)

    def run(x: Tensor, alpha: Tensor, omega: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.rnn_scan(
            x, alpha, h0, dt=dt, nonlinearity=nonlinearity, frequency=omega, seq_starts=seq_starts
        )

    inputs = [x.double(), pairs.alpha, pairs.omega, starts]
    exact, exact_grads = _differentiate(run, inputs, [pull, pull_last])
    before = previous_states(exact[0], starts, seq_starts, False)
    e, e_x, grad_x = torch.zeros_like(exact[0]), torch.zeros_like(exact[0]), torch.zeros_like(exact[0])
    e_before, e_last, e_first = torch.zeros_like(before), torch.zeros_like(starts), torch.zeros_like(starts)
    ranges = [slice(None)] if seq_starts is None else reference.spans(seq_starts, x.shape[1])
    for i, span in enumerate(ranges):
        rows = slice(None) if seq_starts is None else slice(i, i + 1)
        orbit = _PairOrbit(pairs, inputs[0][:, span], exact[0][:, span], before[:, span])
        e[:, span], e_last[rows] = orbit.state_errors(u)
        # The adjoint forms z again from x and stored states, or from states recomputed from an earlier stored one.
        stored = e[:, span]
        if stored.shape[1]:
            stored = stored + _storage(x.dtype) * exact[0][:, span].abs().cummax(1).values
        e_before[:, span] = previous_states(stored, torch.zeros_like(starts[rows]), None, False)
        grad_x[:, span], e_x[:, span], e_first[rows] = orbit.adjoint_errors(
            u, e_before[:, span], pull[:, span], pull_last[rows]
        )
    count = x.shape[0] * x.shape[1]
    swapped = [(factor, _swapped(factor)) for factor in (before.abs(), e_before)]
    e_alpha, e_omega = (
        (e_x * factor + grad_x * (e_factor + count * u * factor)).sum((0, 1)).unflatten(0, (-1, 2)).sum(1)
        for factor, e_factor in zip(*swapped, strict=True)
    )
    values, errors = pairs.chain(u, exact_grads[1:3], (e_alpha, e_omega))
    return {
        "h": _bound(exact[0], e, x.dtype),
        "h_last": _bound(exact[1], e_last, last_dtype),
        "grad_x": _bound(exact_grads[0], e_x, x.dtype),
        "grad_rate": _bound(values[0], errors[0], rate.dtype),
        "grad_frequency": _bound(values[1], errors[1], frequency.dtype),
        "grad_h0": _bound(exact_grads[3], e_first, last_dtype),
    }


def _swapped(row: Tensor) -> Tensor:
    """Channels 2k and 2k + 1 exchanged."""
    return row.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


class _Pairs:
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


class _PairOrbit:
    """The exact states of pairs along one sequence, (B, T, D), and the errors that travel along them."""

    def __init__(self, pairs: _Pairs, drive: Tensor, h: Tensor, before: Tensor) -> None:
        self.pairs, self.h, self.before = pairs, h, before
        self.alpha = pairs.alpha.repeat_interleave(2)
        self.omega = torch.stack((-pairs.omega, pairs.omega), -1).flatten()
        turned = self.omega * _swapped(before)
        self.z = drive - self.alpha * before - turned
        self.scale = drive.abs() + (self.alpha * before).abs() + turned.abs()
        self.slope = activation_slope(pairs.nonlinearity)(self.z)
        matrix = reference.pair_matrix(pairs.alpha, pairs.omega)
        eye = torch.eye(2, dtype=torch.float64)
        self.jacobian = eye - pairs.dt * self.slope.unflatten(-1, (-1, 2)).unsqueeze(-1) * matrix

    def reach(self, row: Tensor) -> Tensor:
        """|A| times a row of magnitudes."""
        return self.alpha.abs() * row + self.omega.abs() * _swapped(row)

    def rounded(self, u: float) -> Tensor:
        """What z rounds, four times, and the errors of its coefficients."""
        e_alpha, e_omega = (error.repeat_interleave(2) for error in self.pairs.errors(u))
        return 4 * u * self.scale + e_alpha * self.before.abs() + e_omega * _swapped(self.before.abs())

    def state_errors(self, u: float) -> tuple[Tensor, Tensor]:
        """Errors of h, and of the last states."""
        dt, kind = self.pairs.dt, self.pairs.nonlinearity
        e_z, act = self.rounded(u), activation(kind)(self.z).abs()
        made = dt * (e_z + (2 + ACT_ROUNDINGS[kind]) * u * act) + u * self.h.abs()

        def at(t: int, e: Tensor) -> Tensor:
            reach = self.reach(e)
            return made[:, t] + dt * _slope_uncertainty(kind, self.z[:, t], e_z[:, t] + reach) * reach

        return _along(self.jacobian, range(self.h.shape[1]), at, torch.zeros_like(self.h[:, :1].sum(1)))

    def adjoint_errors(
        self, u: float, e_before: Tensor, pull: Tensor, pull_last: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Magnitudes of grad_x, their errors, and the errors of grad_h0, from those of h[t-1]."""
        dt, kind, u_slope = self.pairs.dt, self.pairs.nonlinearity, _slope_roundings(self.pairs.nonlinearity) * u
        e_slope = _slope_uncertainty(kind, self.z, self.rounded(u) + self.reach(e_before)) + u_slope
        slope = self.slope + e_slope
        mu, size, grads = pull_last, torch.zeros_like(pull), torch.zeros_like(pull)
        back = self.jacobian.transpose(-1, -2)
        for t in reversed(range(pull.shape[1])):
            size[:, t] = pull[:, t].abs() + mu.abs()
            grads[:, t] = dt * self.slope[:, t] * (pull[:, t] + mu).abs()
            mu = (back[:, t] @ (pull[:, t] + mu).unflatten(-1, (-1, 2)).unsqueeze(-1)).flatten(-3)
        # lambda = g + mu rounds once, A^T dx up to six times, and coefficients have errors of their own.
        e_alpha, e_omega = (error.repeat_interleave(2) for error in self.pairs.errors(u))
        product = dt * slope * size
        made = 2 * u * size + self.reach(dt * e_slope * size) + e_alpha * product + e_omega * _swapped(product)
        made = made + 6 * u * (size + self.reach(product))

        def at(t: int, e: Tensor) -> Tensor:
            return made[:, t] + self.reach(dt * e_slope[:, t] * e)

        e_mu, e_first = _along(back, reversed(range(pull.shape[1])), at, torch.zeros_like(pull_last))
        e_lambda = torch.cat((e_mu[:, 1:], torch.zeros_like(e_mu[:, :1])), 1) + 2 * u * size
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


class _Adjoint(NamedTuple):
    """Magnitudes and errors of the gradients by z, (B, T, D), and of what leaves the first step, (S, D)."""

    grad_z: Tensor
    e_z: Tensor
    first: Tensor
    e_first: Tensor


@dataclass(frozen=True)
class _Orbit:
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
        return _slope_uncertainty(self.nonlinearity, self.z, e_z)

    def state_errors(self, u: float, drive: float = 1.0) -> tuple[Tensor, Tensor]:
        """Errors of h and of the last states; `drive` times what the steps of the recurrence round."""
        # z takes its roundings, dt * act(z) two and act's own, the sum one.
        act = activation(self.nonlinearity)(self.z).abs()
        made = self.dt * (self.roundings * self.scale + (2 + ACT_ROUNDINGS[self.nonlinearity]) * act) + self.h.abs()
        made = drive * u * made
        growth = (1 - self.dt * self.rate).abs()
        growth = growth if self.nonlinearity == "linear" else growth.clamp(min=1)
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
        e_slope = self.uncertainty(stored, u) + _slope_roundings(self.nonlinearity) * u
        jacobian = (1 - self.dt * self.rate * slope).abs() + turn * e_slope
        back: dict[str, Any] = dict(reverse=True, seq_starts=starts)
        mu, first = reference.linear_scan(jacobian * pull, jacobian, pull_last, **back)
        reach = pull + previous_states(mu, pull_last, starts, True)  # Lambda, the magnitudes of the adjoint
        # lambda = g + mu rounds once, J lambda up to six times, besides the rate.
        made = reach * (turn * e_slope + (6 + self.rate_roundings) * u * (1 + turn * slope)) + jacobian * e_pull
        e_mu, e_first = reference.linear_scan(made, jacobian, self.zero, **back)
        e_lambda = e_pull + previous_states(e_mu, self.zero, starts, True) + 2 * u * reach
        grad_z = self.dt * (slope + e_slope) * reach
        e_z = self.dt * ((slope + e_slope) * e_lambda + reach * e_slope) + LEVELS * u * grad_z
        return _Adjoint(grad_z, e_z, first, e_first)

    def product_errors(self, u: float, adjoint: _Adjoint, factor: Tensor, e_factor: Tensor) -> Tensor:
        """Error of the sum over sequences and steps of grad_z times a factor with an error, in any order."""
        count = factor.shape[0] * factor.shape[1]
        rounded = count * u * adjoint.grad_z * (factor.abs() + e_factor)
        return (adjoint.e_z * factor.abs() + adjoint.grad_z * e_factor + rounded).sum((0, 1))


def _orbit(
    drive: Tensor, rate: Tensor, h: Tensor, starts: Tensor, seq_starts: Tensor | None, *, dt: float,
    nonlinearity: str, drive_scale: Tensor | None = None, drive_roundings: int = 0, rate_roundings: int = 0,
) -> _Orbit:  # fmt: skip
    """The orbit of exact states h; z = drive - rate h[t-1] rounds twice, after the drive against its own scale."""
    before = previous_states(h, starts, seq_starts, False)
    pulled = rate * before
    scale = (drive.abs() if drive_scale is None else drive_scale) + pulled.abs()
    zero = torch.zeros_like(starts)
    roundings = 2 + drive_roundings + rate_roundings
    return _Orbit(rate, dt, nonlinearity, seq_starts, h, before, drive - pulled, scale, roundings, rate_roundings, zero)


@dataclass(frozen=True)
class _DenseOrbit:
    """The exact states of a dense recurrence, and the errors that grow along them.

    Attributes:
        weight, dt, nonlinearity: of the recurrence.
        h: exact states, (B, T, D).
        z: pre-activations.
        scale: what z is rounded against.
        roundings: of z.
    """

    weight: Tensor
    dt: float
    nonlinearity: str
    h: Tensor
    z: Tensor
    scale: Tensor
    roundings: int

    @property
    def slope(self) -> Tensor:
        """act'(z)."""
        return activation_slope(self.nonlinearity)(self.z)

    def uncertainty(self, e_before: Tensor, t: int | slice, u: float) -> Tensor:
        """How far act'(z) may be off at the steps t when z is formed from earlier states with these errors."""
        e_z = self.roundings * u * self.scale[:, t] + e_before @ self.weight.abs().T
        return _slope_uncertainty(self.nonlinearity, self.z[:, t], e_z)

    def growth(self, e_slope: Tensor, t: int | slice) -> Tensor:
        """|I - dt diag(s) W| for every s within e_slope of act'(z), (..., D, D)."""
        eye = torch.eye(len(self.weight), dtype=torch.float64)
        exactly = (eye - self.dt * self.slope[:, t].unsqueeze(-1) * self.weight).abs()
        return exactly + self.dt * e_slope.unsqueeze(-1) * self.weight.abs()

    def state_errors(self, u: float) -> Tensor:
        """Errors of h. Step by step: a slope is as uncertain as the error that has reached it, and no more."""
        act = activation(self.nonlinearity)(self.z).abs()
        made = self.dt * (self.roundings * self.scale + (2 + ACT_ROUNDINGS[self.nonlinearity]) * act) + self.h.abs()
        e_state, errors = torch.zeros_like(self.h[:, :1].sum(1)), []
        for t in range(self.h.shape[1]):
            grown = (self.growth(self.uncertainty(e_state, t, u), t) @ e_state.unsqueeze(-1)).squeeze(-1)
            if self.nonlinearity in SATURATING:
                grown = grown.minimum(e_state + 2 * self.dt)  # whatever z is, act(z) is in [-1, 1]
            e_state = grown + u * made[:, t]
            errors.append(e_state)
        return torch.stack(errors, 1) if errors else made


def _dense_orbit(
    drive: Tensor, weight: Tensor, h: Tensor, starts: Tensor, *, dt: float, nonlinearity: str,
    drive_scale: Tensor | None = None, drive_roundings: int = 0,
) -> _DenseOrbit:  # fmt: skip
    """The orbit of exact states h; z = drive - W h[t-1] rounds D + 2 times, in any order."""
    before = previous_states(h, starts, None, False)
    scale = (drive.abs() if drive_scale is None else drive_scale) + before.abs() @ weight.abs().T
    roundings = len(weight) + 2 + drive_roundings
    return _DenseOrbit(weight, dt, nonlinearity, h, drive - before @ weight.T, scale, roundings)


def _slope_uncertainty(nonlinearity: str, z: Tensor, e_z: Tensor) -> Tensor:
    """How far act' may be off at a z with an error: any slope in [0, 1] counts within reach of a jump."""
    if nonlinearity in KINKS:
        return torch.where((z.abs() - KINKS[nonlinearity]).abs() <= SECOND_ORDER * e_z, 1.0, 0.0).double()
    return (CURVATURE[nonlinearity] * e_z).clamp(max=1.0)


def _slope_roundings(nonlinearity: str) -> int:
    """Of tanh' = 1 - tanh^2 itself; the others are exact."""
    return 2 * (1 + ACT_ROUNDINGS[nonlinearity]) if nonlinearity == "tanh" else 0


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
            that is tested.
        grad_y: (B, T, p), derivative of a loss by y.
        dt: step.
        act_in: nonlinearity of the recurrence.
        act_out: nonlinearity before the read-out.
        e_grad: how far grad_y itself may be off, (B, T, p) float64; None for not at all.
        u: unit roundoff of the states; None for that of grad_y's dtype.

    Returns:
        "y", and "grad_" with the name of each of the six tensors.

    Example:
        >>> one = torch.ones(1, 1)
        >>> given = (torch.ones(1, 2, 1), one, one[0], one[0], one, 0 * one[0])
        >>> bounds = rnn_readout_bounds(given, given[0], dt=1.0, act_in="hardtanh", act_out="linear")
        >>> bounds["y"].exact.flatten().tolist()
        [1.0, 2.0]
    """
    u, dtype = _rounding(grad_y.dtype) if u is None else u, grad_y.dtype
    tensors = [tensor.double() for tensor in tensors]
    names = ("x", "weight", "bias", "rate", "readout", "offset")
    g = grad_y.double().abs()
    e_g = torch.zeros_like(g) if e_grad is None else e_grad

    def run(x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor) -> tuple[Tensor]:
        h, _ = reference.rnn_scan(x @ weight.T + bias, rate, dt=dt, nonlinearity=act_in)
        return (activation(act_out)(h) @ readout.T + offset,)

    (y,), grads = _differentiate(run, tensors, [grad_y.double()])
    x, weight, _, _, readout, _ = tensors
    orbit = _encoded_orbit(tensors, dt, act_in)
    out, e_y = _read_out(tensors, orbit.h, orbit.state_errors(u)[0], u, act_out)
    pulled = g @ readout.abs()
    pull = (out.slope + out.e_slope) * pulled
    e_pull = out.e_slope * pulled + (len(readout) + 1) * u * pull + (out.slope + out.e_slope) * (e_g @ readout.abs())
    adjoint = orbit.adjoint_errors(u, out.e_state, pull, e_pull, torch.zeros_like(orbit.zero))
    one = torch.ones_like(orbit.h)
    e_weight = [orbit.product_errors(u, adjoint, x[..., j, None] * one, 0 * one) for j in range(weight.shape[1])]
    e_x = adjoint.e_z @ weight.abs() + (len(weight) + 1) * u * (adjoint.grad_z @ weight.abs())
    steps = x.shape[0] * x.shape[1]
    flat = [tensor.flatten(0, 1) for tensor in (g + e_g, out.error, out.value.abs(), e_g)]
    errors = {
        "x": e_x,
        "weight": torch.stack(e_weight, 1),
        "bias": orbit.product_errors(u, adjoint, one, 0 * one),
        "rate": orbit.product_errors(u, adjoint, orbit.before, orbit.earlier(out.e_state)),
        "readout": flat[0].T @ flat[1] + (steps + 1) * u * (flat[0].T @ (flat[1] + flat[2])) + flat[3].T @ flat[2],
        "offset": steps * u * flat[0].sum(0) + flat[3].sum(0),
    }
    bounds = {f"grad_{name}": _bound(grad, errors[name], dtype) for name, grad in zip(names, grads, strict=True)}
    return {"y": _bound(y, e_y, dtype), **bounds}


class _Output(NamedTuple):
    """act_out(h), its error, its slope and how far that may be off, and the errors of h; all (B, T, D)."""

    value: Tensor
    error: Tensor
    slope: Tensor
    e_slope: Tensor
    e_state: Tensor


def _encoded_orbit(tensors: Sequence[Tensor], dt: float, act_in: str) -> _Orbit:
    """The orbit of a diagonal recurrence of encoded inputs, from float64 tensors."""
    drive, encoding = _encode(*tensors[:3])
    h, _ = reference.rnn_scan(drive, tensors[3], dt=dt, nonlinearity=act_in)
    starts = torch.zeros_like(h[:, :1].sum(1))
    return _orbit(drive, tensors[3], h, starts, None, dt=dt, nonlinearity=act_in, **encoding)


def _encoded_dense_orbit(tensors: Sequence[Tensor], dt: float, act_in: str) -> _DenseOrbit:
    """The orbit of a dense recurrence of encoded inputs, from float64 tensors."""
    drive, encoding = _encode(*tensors[:3])
    h, _ = reference.dense_rnn(drive, tensors[3], dt=dt, nonlinearity=act_in)
    starts = torch.zeros_like(h[:, :1].sum(1))
    return _dense_orbit(drive, tensors[3], h, starts, dt=dt, nonlinearity=act_in, **encoding)


def _encoded_states(tensors: Sequence[Tensor], u: float, dt: float, act_in: str) -> tuple[Tensor, Tensor]:
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


def _read_out(tensors: Sequence[Tensor], h: Tensor, e: Tensor, u: float, act_out: str) -> tuple[_Output, Tensor]:
    """The outputs of the units of a fused read-out, from exact states and their errors, and the errors of y."""
    *_, readout, offset = tensors
    value, slope = activation(act_out)(h), activation_slope(act_out)(h)
    e_slope = _slope_uncertainty(act_out, h, e) + _slope_roundings(act_out) * u
    error = (slope + e_slope) * e + ACT_ROUNDINGS[act_out] * u * value.abs()
    e_y = error @ readout.abs().T + (h.shape[2] + 2) * u * (value.abs() @ readout.abs().T + offset.abs())
    return _Output(value, error, slope, e_slope, e), e_y


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
    u, u64 = _rounding(x.dtype), unit_roundoff(torch.float64)
    exact, errors = [], []
    for model in models:
        tensors = [tensor.double() for tensor in (x, *model)]
        h, e = _encoded_states(tensors, u, dt, act_in)
        out, e_y = _read_out(tensors, h, e, u, act_out)
        gap = out.value @ tensors[4].T + tensors[5] - targets.double()
        e_gap = e_y + u * (gap.abs() + e_y)
        if weights is None:
            exact.append(gap.abs().max())
            errors.append(e_gap.max())
        else:
            exact.append((weights[:, None] * gap.square()).sum())
            most = (weights[:, None] * (gap.abs() + e_gap).square()).sum()
            errors.append(most - exact[-1] + (gap.numel() + 3) * 2 * u64 * most)
    return {"errors": _bound(torch.stack(exact), torch.stack(errors), torch.float64)}


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
    u = _rounding(x.dtype)
    columns: dict[str, list[Bound]] = {}
    for model in models:
        tensors = [tensor.double() for tensor in (x, *model)]
        h, e = _encoded_states(tensors, u, dt, act_in)
        out, e_y = _read_out(tensors, h, e, u, act_out)
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


def increment_bounds(
    drive: Tensor, decay: Tensor, step: Tensor, readout: Tensor, steps: Tensor, *, nonlinearity: str
) -> dict[str, Bound]:
    """Exact read-outs c^T act(z[k]) of the memory recursion, and how far computed ones may be off.

        z[0] = e,   z[k+1] = z[k] - A act(z[k]) = l z[k] + A (z[k] - act(z[k]))

    Either form rounds a few times against |z| and A |act(z)|; the sweep and the definition both do, in float64. A power
    of l that stands for many steps where act is linear to 1e-13 rounds no more than they do.

    Args:
        drive: e, (K, n, m) float64.
        decay: l, (K, m).
        step: A, (K, m).
        readout: c, (K, p, m).
        steps: (S,), ascending.
        nonlinearity: act.

    Returns:
        "increments", (K, n, S, p).
    """
    u = _rounding(torch.float64)
    act, slope_of = activation(nonlinearity), activation_slope(nonlinearity)
    a, c = step[:, None], readout.mT
    z, e, exact, errors = drive, torch.zeros_like(drive), [], []
    for k in range(int(steps[-1]) + 1 if len(steps) else 0):
        value, slope = act(z), slope_of(z)
        e_value = (slope + _slope_uncertainty(nonlinearity, z, e)) * e + ACT_ROUNDINGS[nonlinearity] * u * value.abs()
        if k in steps:
            exact.append(value @ c)
            errors.append(e_value @ c.abs() + (drive.shape[2] + 1) * u * (value.abs() @ c.abs()))
        growth = (1 - a * slope).abs() + a.abs() * _slope_uncertainty(nonlinearity, z, e)
        # Of the difference z - act(z), which the series of tanh takes some 20 roundings for, and of the sum.
        e = growth * e + u * (3 * z.abs() + a.abs() * (3 + 4 * ACT_ROUNDINGS[nonlinearity]) * value.abs())
        z = z - a * value
    return {"increments": _bound(torch.stack(exact, 2), torch.stack(errors, 2), torch.float64)}


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
    size, nothing = len(matrix), torch.zeros_like(starts)
    before = previous_states(h, starts, None, False)
    orbit = _dense_orbit(inputs[0], matrix, h, starts, dt=dt, nonlinearity=nonlinearity)
    slope, e = orbit.slope, orbit.state_errors(u)

    # The adjoint takes the slopes from the forward pass, or forms them again from stored states.
    stored = e + _storage(x.dtype) * h.abs()
    every = slice(None)
    e_before = previous_states(stored, nothing, None, False)
    e_slope = orbit.uncertainty(e_before, every, u) + _slope_roundings(nonlinearity) * u
    jacobian, turn = orbit.growth(e_slope, every), matrix.abs().T
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


def _of_parts(bound: Bound) -> Bound:
    """Of complex numbers, that of their parts as pairs of real channels."""
    return Bound(as_reals(bound.exact), bound.error.abs().repeat_interleave(2, -1))


def _bound(exact: Tensor, error: Tensor, dtype: torch.dtype) -> Bound:
    """Adds the final rounding to `dtype`, relative, and absolute below the normal numbers of it and of the state."""
    limits, state_limits = torch.finfo(dtype), torch.finfo(state_dtype(dtype))
    least = limits.smallest_normal * limits.eps + state_limits.smallest_normal
    rounded = error + _storage(dtype) * (exact.abs() + error) + least
    return Bound(exact, SECOND_ORDER * rounded)
