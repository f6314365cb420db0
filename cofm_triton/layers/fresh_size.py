"""How large the rows of a fresh U are, so that stacks of normalised layers keep the size of noise and of constants.

A unit with decay l and the gain g = sqrt(1 - |l|^2) answers white noise of variance 1 with variance 1, and a constant 1
with g / |1 - l|: sqrt((1 + l) / (1 - l)) of a unit that fades, 45 at a memory of 1,000 steps. A layer of such units
sends on slow signals, and stacks of them explode. So two factors multiply the rows of U:

    of a unit      f = min(1, |1 - l| / g)     no unit answers a constant with more than that
    of layer n     c = sqrt(p[n-1] / p[n])     p[n] the variance of white noise behind n layers of factors f

Rows of U mix their inputs at random, so that powers add up: p[n] is the integral (1 / pi) int_0^pi A(w)^n dw over
angles, where A(w) is the mean over the units of their power at the angle w. Pairs that turn by an angle somewhere
between 0 and pi pass on f^2 of white noise; units that fade pass on (f g)^2 / |1 - l e^{-iw}|^2. A(0) <= 1 whatever the
memories: behind n layers a constant is answered with at most the product of the c, whatever the length.

Source: our own; Glorot and Bengio 2010 keep variances of layers without memory so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofm_triton.step.coefficients import Modes
from cofm_triton.step.modes import mode_decay, normalized_gain, step_size

# Most draws lie below the mean over all of them, and short sequences below long ones: fitted to 8 layers of 64 units at
# lengths from 64 to 16,384.
_TYPICAL = 1.05
_RISE = 1.7
_ANGLES = 512  # log-spaced: A changes with log w


def unit_factors(modes: Modes) -> Tensor:
    """f, one for each mode, (m,), like the rates.

    Example:
        >>> slow = Modes(torch.tensor([1e-3]), None, 1.0, "exact")
        >>> round(float(unit_factors(slow)), 4)
        0.0224
    """
    return (modes.dt * step_size(*modes) / normalized_gain(*modes)).clamp(max=1)


def rising_factors(modes: Modes, depth: int) -> Tensor:
    """Of units with relu inside, whose states only rise, (m,); arguments of `layer_factor`.

    Inputs multiplied by f |1 - l| / dt make a state rise to f times the largest input so far: a fast unit at once, a
    slow one over a long time. In the first layer f is 1. In layers above it is sqrt(|1 - l|), with a root mean square
    of 1, so that fast ones, whose size depends least on the length, count most; in the second also 1 / 1.7, fitted, as
    noise makes states of the first rise: to about 0.9 in 64 steps, and to 2.8 in 16,384.

    Example:
        >>> fast = Modes(torch.tensor([30.0, 30.0]), None, 1.0, "exact")
        >>> rising_factors(fast, 2).tolist()
        [1.0, 1.0]
    """
    squares = (modes.dt * step_size(*modes)).clamp(max=1)
    if depth == 0:
        return torch.ones_like(squares)
    return (squares / squares.mean()).sqrt() / (_RISE if depth == 1 else 1)


def layer_factor(modes: Modes, depth: int) -> Tensor:
    """c of the layer with `depth` others of its kind below, a number on the device of the rates.

    Example:
        >>> slow = Modes(torch.tensor([1e-3], dtype=torch.float64), None, 1.0, "exact")
        >>> round(float(layer_factor(slow, 0)), 2)
        44.72
    """
    angles = torch.logspace(-8, math.log10(math.pi), _ANGLES, dtype=modes.rate.dtype, device=modes.rate.device)
    passed = unit_factors(modes).square()
    decay = mode_decay(modes.rate, None, modes.dt, modes.discretization)
    share = (1 - decay) ** 2 + 4 * decay * torch.sin(angles[:, None] / 2).square()
    slow = passed * normalized_gain(modes.rate, None, modes.dt, modes.discretization).square() / share
    power = (slow if modes.frequency is None else torch.where(modes.frequency == 0, slow, passed)).mean(1)
    below, behind = (torch.trapezoid(power**n, angles) / math.pi for n in (depth, depth + 1))
    return (below / behind).sqrt() * (_TYPICAL if depth else 1)


def fading_share(modes: Modes) -> Tensor:
    """Which part of the modes fades without a turn."""
    if modes.frequency is None:
        return torch.ones((), dtype=modes.rate.dtype, device=modes.rate.device)
    return (modes.frequency == 0).to(modes.rate.dtype).mean()
