"""The nonlinear recurrence parallel in time: Newton's method on the whole trajectory, one linear scan per iteration.

All steps together are one system, `r[t] = f(h[t-1]) - h[t] = 0` with `f(h) = h + dt act(x[t] - rate h)`. Its Jacobian
has two diagonals, so that Newton's correction solves a gated linear scan:

    delta[t] = J[t] delta[t-1] + r[t],   J[t] = f'(h[t-1]) = 1 - dt rate act'(z[t]),   h <- h + delta

Iterations. A correction makes step t exact as soon as all steps before it are: by induction k iterations make the first
k steps exact, whatever the start, and T iterations are enough. Near the solution the error of an iterate is the square
of the one before, driven by act'': for tanh convergence is quadratic, for hardtanh and relu it ends once every step is
on its right side of the kinks. A handful suffices while dt * rate is at most 1/2 and inputs saturate little
(`bench/newton.py` counts them); beyond, errors may travel one step at a time or grow, and the sequential kernel takes
over after `MAX_ITERATIONS`, or when an iterate is not finite. The result is therefore never worse than the sequential
one.

Accuracy. A trajectory is accepted when the residual of every step is at most twice what a step of the sequential
kernel may round, by the count of `evidence/tolerance/`; errors then obey the same recurrence with at most twice
its drive.

Start. `h[t] = (1 - dt rate) h[t-1] + dt act(x[t])`, a linear scan: right in the linear regime, and saturated inputs
push it no harder than they push the recurrence.

Source: Lim et al., "Parallelizing non-linear sequential models over the sequence length", arXiv 2309.12252; Gonzalez et
al., "Towards scalable and stable parallelization of nonlinear RNNs", arXiv 2407.19115 (diagonal Jacobians).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cofm_triton.ops.backends import lanes, num_sms
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.linear_scan import backend_of
from cofm_triton.ops.shapes import previous_states
from cofm_triton.step.activation import activation, activation_slope
from cofm_triton.step.activations import properties

# Iterations after which the sequential kernel takes over: while dt * rate stays below 1 few trajectories need more.
MAX_ITERATIONS = 20
# Roundings of a step: of z, and of the product and the sum with act(z), which has its own.
_SCALE_ROUNDINGS, _SUM_ROUNDINGS = 2, 2
# Residuals that are accepted, in roundings of a step.
ACCEPTED = 2.0
# Where "auto" takes Newton's method on a GPU: a model, not a measurement. A step of the sequential kernel is a chain of
# dependent instructions, 24.5 cycles with hardtanh and 74 with tanh, whatever the number of channels. An iteration is
# 39 or 40 kernels that move about 280 bytes per number in float32, of which an H100 moves 2,000 bytes a cycle: 8
# iterations over 64 channels take as long as the chain of tanh, and longer than that of hardtanh.
MAX_CHANNELS = 64
MIN_STEPS = 2**16


class Newton(NamedTuple):
    """Final states, or None where the sequential kernel has to take over, and the iterations done."""

    h: Tensor | None
    iterations: int


def pays(x: Tensor, seq_starts: Tensor | None, backend: str) -> bool:
    """The rule of solver="auto": long sequences of few channels on a GPU, which the sequential kernel leaves idle.

    A processor has no idle lanes to win: there every iteration costs more than the sequential loop. Packed sequences
    are as many short chains, and a graph that is being captured cannot wait for a residual.
    """
    few_and_long = x.shape[0] * x.shape[2] <= MAX_CHANNELS and x.shape[1] >= MIN_STEPS
    if backend != "triton" or x.device.type != "cuda" or seq_starts is not None or not few_and_long:
        return False
    return not torch.cuda.is_current_stream_capturing()


def newton_scan(
    x: Tensor, rate: Tensor, h0: Tensor | None, seq_starts: Tensor | None, *, dt: float, nonlinearity: str, backend: str
) -> Newton:
    """States h (B, T, D), T >= 1, in the state's dtype, by Newton's method; see the module.

    Args:
        x: (B, T, D).
        rate: (D,) in the state's dtype.
        h0: (S, D) in the state's dtype, or None.
        seq_starts: (S,), or None.
        dt: step.
        nonlinearity: act.
        backend: a resolved one; runs the linear scans.
    """
    state = state_dtype(x.dtype)
    inputs = x.to(state)
    act, slope_of = activation(nonlinearity), activation_slope(nonlinearity)
    roundoff = torch.finfo(state).eps / 2

    def scan(drive: Tensor, decay: Tensor, start: Tensor | None) -> Tensor:
        device = x.device
        h, _ = backend_of(backend).forward(
            drive, decay, start, seq_starts,
            reverse=False, state_dtype=state, num_sms=num_sms(device), lanes=lanes(device),
        )  # fmt: skip
        return h

    h = scan(dt * act(inputs), 1 - dt * rate, h0)
    for iteration in range(MAX_ITERATIONS):
        before = previous_states(h, h0, seq_starts, False)
        pull = rate * before
        z = inputs - pull
        value, slope = act(z), slope_of(z)
        residual = before + dt * value - h
        rounded = _SCALE_ROUNDINGS * slope.abs() * (inputs.abs() + pull.abs())
        rounded = rounded + _SUM_ROUNDINGS * value.abs() + properties(nonlinearity).error(z, value)
        accepted = ACCEPTED * roundoff * (dt * rounded + h.abs() + before.abs())
        if bool((residual.abs() <= accepted).all()):
            return Newton(h, iteration)
        if not bool(h.isfinite().all()):
            return Newton(None, iteration)
        h = h + scan(residual, 1 - dt * rate * slope, None)
    return Newton(None, MAX_ITERATIONS)
