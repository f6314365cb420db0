"""Memory function, arXiv 2305.19190 Definition 3.1.

    M(H)(t) = sup_{x != 0} |d/dt H_t(u^x)| / |x|_inf,   u^x = x 1_{t >= 0}

The paper's proofs (eq 43) divide by |x|_inf + 1. Time is discrete here: the derivative is v[k] = (y[k] - y[k-1]) / dt,
and y[-1] is the output of the state 0. The sup needs a bound |x|_inf <= R: without it every saturating model has a
memory of order 1 / t.
"""

from collections.abc import Callable
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from .linear_kernel import linear_kernel
from .model import Dynamics, Parameters, encode, in_pairs
from .nonlinearity import nonlinearity as lookup
from .oscillation import effective_pair

NORMS = {"inf": 0.0, "inf+1": 1.0}
"""What is added to |x|_inf under the bar."""


class MemoryFunction(NamedTuple):
    """The sup over the inputs tried, and where it is reached.

    Attributes:
        values: (T,), M at t = k dt.
        argmax: (T, d), the Heaviside input that reaches it.
    """

    values: Tensor
    argmax: Tensor


def increments(params: Parameters, inputs: Tensor, length: int, dynamics: Dynamics) -> Tensor:
    """v[k] = (y[k] - y[k-1]) / dt under Heaviside inputs, without subtracting outputs.

    Nonlinear recurrence: the pre-activation z is iterated instead of h, because e - a h cancels near the limit e / a:

        z[0] = U x + b,   v[k] = c^T act(z[k]),   z[k+1] = z[k] - dt a act(z[k])

    Linear state: h[k+1] - h[k] = l^k g e, read out by c, through differences of act for "ssm".

    Args:
        params: see `model`.
        inputs: (n, d), the values x of the Heaviside inputs.
        length: T.
        dynamics: the model's options.

    Returns:
        (n, T, p), 1 / time.
    """
    changes = _linear_changes if dynamics.linear_state else _nonlinear_changes
    states = changes(params, encode(params, inputs), length, dynamics)
    return states @ params["readout.weight"].T / dynamics.dt


def _linear_changes(params: Parameters, e: Tensor, length: int, dynamics: Dynamics) -> Tensor:
    """act(h[k+1]) - act(h[k]) of a linear state from h[0] = 0, (n, T, D)."""
    act = lookup(dynamics.nonlinearity)
    width = e.shape[-1]
    decay, step = dynamics.decay(params), dynamics.gain(params) * (in_pairs(e) if dynamics.oscillating else e)
    h, rows = torch.zeros_like(step), []
    for _ in range(length):
        rows.append(act.difference(_of_units(h, width), _of_units(step, width)))
        h, step = h + step, decay * step
    return torch.stack(rows, 1)


def _of_units(state: Tensor, width: int) -> Tensor:
    """A state of single units or of pairs as (n, D) real numbers."""
    return torch.view_as_real(state).flatten(-2)[:, :width] if state.is_complex() else state


def _nonlinear_changes(params: Parameters, e: Tensor, length: int, dynamics: Dynamics) -> Tensor:
    """h[k+1] - h[k] = dt act(z[k]) of the diagonal recurrence from h[0] = 0, (n, T, D)."""
    act = lookup(dynamics.nonlinearity).act
    scale = dynamics.input_scale(params)
    if dynamics.oscillating:
        return _turned_changes(params, in_pairs(e) * scale, length, dynamics)[..., : e.shape[-1]]
    rate, z, rows = dynamics.effective_rate(params), scale * e, []
    for _ in range(length):
        change = dynamics.dt * act(z)
        rows.append(change)
        z = z - rate * change
    return torch.stack(rows, 1)


def _turned_changes(params: Parameters, z: Tensor, length: int, dynamics: Dynamics) -> Tensor:
    """The same of pairs, whose two numbers act takes one by one: (n, P) complex to (n, T, 2 P)."""
    act, frequency = lookup(dynamics.nonlinearity).act, dynamics.frequency(params)
    assert frequency is not None
    rate = torch.complex(*effective_pair(dynamics.rate(params), frequency, dynamics.dt, dynamics.discretization))
    rows = []
    for _ in range(length):
        change = dynamics.dt * act(torch.view_as_real(z))
        rows.append(change.flatten(-2))
        z = z - rate * torch.view_as_complex(change)
    return torch.stack(rows, 1)


def differences(
    model: Callable[[Tensor], Tensor],
    inputs: Tensor,
    length: int,
    *,
    dt: float = 1.0,
    initial_output: Tensor | float = 0.0,
) -> Tensor:
    """v[k] = (y[k] - y[k-1]) / dt of any causal model, by subtracting its outputs.

    Args:
        model: maps (n, T, d) to (n, T, p).
        inputs: (n, d), the values of the Heaviside inputs.
        length: T.
        dt: step, time.
        initial_output: y[-1], the output before the input is switched on; broadcasts to (n, 1, p).

    Returns:
        (n, T, p), 1 / time; each value has the rounding errors of the outputs.
    """
    y = model(inputs[:, None].expand(-1, length, -1))
    before = torch.as_tensor(initial_output, dtype=y.dtype, device=y.device)
    return torch.diff(y, dim=1, prepend=before.expand_as(y[:, :1])) / dt


def sign_vectors(size: int) -> Tensor:
    """All 2^d vectors of signs, (2^d, d) float64: the corners of the inf-ball."""
    return torch.tensor(list(product((-1.0, 1.0), repeat=size)), dtype=torch.float64)


def candidates(size: int, radius: float = 1.0, levels: int = 32) -> Tensor:
    """Inputs among which to look for the sup: sign vectors at radii R / levels, ..., R.

    Returns:
        (levels 2^d, d) float64.
    """
    radii = radius * torch.arange(1, levels + 1, dtype=torch.float64) / levels
    return (radii[:, None, None] * sign_vectors(size)).flatten(0, 1)


def memory_function(velocities: Tensor, inputs: Tensor, *, norm: str = "inf") -> MemoryFunction:
    """M(k dt) = max_n |v_n[k]|_inf / (|x_n|_inf + {0 or 1}) over the inputs given.

    Args:
        velocities: (n, T, p), from `increments` or `differences`.
        inputs: (n, d), none of them zero.
        norm: "inf" (Definition 3.1) or "inf+1" (the paper's proofs).

    Raises:
        ValueError: unknown norm, or a zero input.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got {norm!r}")
    size = inputs.abs().amax(1)
    if (size == 0).any():
        raise ValueError("inputs must not contain the zero vector: the sup is over x != 0")
    ratios = velocities.abs().amax(2) / (size + NORMS[norm])[:, None]
    values, where = ratios.max(0)
    return MemoryFunction(values, inputs[where])


def linear_memory(
    params: Parameters,
    length: int,
    dynamics: Dynamics,
    *,
    radius: float = 1.0,
    norm: str = "inf",
) -> Tensor:
    """Closed form of the memory of a linear model over |x|_inf = R.

        M(k dt) = max_p (R |kappa_k|_1 + |kb_k|) / (R + {0 or 1}) / dt

    Without an encoder bias and with norm "inf" this is |rho|_1, whatever R. With a bias that ratio
    is largest, and unbounded, for small x, so the radius is part of the answer.

    Returns:
        (T,), 1 / time.

    Raises:
        ValueError: unknown norm, or an activation that is not linear.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {tuple(NORMS)}, got {norm!r}")
    kappa, kb = linear_kernel(params, length, dynamics)
    velocity = (radius * kappa.abs().sum(1) + kb.abs()) / dynamics.dt
    return velocity.amax(0) / (radius + NORMS[norm])
