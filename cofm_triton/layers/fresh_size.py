"""How large the rows of a fresh U are, so that stacks of normalised layers keep the size of noise and of constants.

A unit with decay l and the gain g = sqrt(1 - |l|^2) answers white noise of variance 1 with variance 1, and a constant 1
with g / |1 - l|: sqrt((1 + l) / (1 - l)) of a unit that fades, 45 at a memory of 1,000 steps. A layer of such units
sends on slow signals, and stacks of them explode. So factors multiply the rows of U:

    of a unit      f = min(1, |1 - l| / g)     no unit answers a constant with more than that
    of layer n     c = sqrt(p[n-1] / p[n])     p[n] the variance of white noise behind n layers of factors f
    of its inputs  1 / s                       s^2 the power that a nonlinearity hands on, of states with variance 1

Rows of U mix their inputs at random, so that powers add up: p[n] is the integral (1 / pi) int_0^pi A(w)^n dw over
angles, where A(w) is the mean over the units of their power at the angle w. Pairs that turn, by angles up to some a,
pass on f^2 of white noise, all of it below a; units that fade pass on (f g)^2 / |1 - l e^{-iw}|^2. A(0) <= 1 whatever
the memories: behind n layers a constant is answered with at most the product of the c, whatever the length.

Saturation inside. A pair that turns answers its own rhythm with g / (1 - |l|), 45 again, and so the pairs below that
turn alike. In "ssm" that does no harm. Inside the loop, tanh or hardtanh then saturates units in turn, and gradients
along such inputs grow (`step/oscillation.py`): by 1e9 behind 8 layers of 4,096 steps. So f of these pairs is
min(1, (1 - |l|) / g): no rhythm is answered with more than its own size, and what is left saturates little.

Relu. All its outputs have the mean m of relu(z), a constant that slow units sum up over their memory. Rows of U above
are made without mean, and none of what all units have in common is handed on, only what differs between them: of units
of sizes f, s^2 = v + m^2 (1 - mean(f)^2 / mean(f^2)), with the variance v of relu(z). And two rows next to each other
are a row and its negative: relu(z)^2 + relu(-z)^2 = z^2, whatever the draw, so that chance has less say (the idea is
that of D. Balduzzi et al. 2017, arXiv 1702.08591, section 3.3). Pairs of a linear recurrence that turn pass no constant
on; their rows stay as they are, and s^2 = v.

Source: our own; Glorot and Bengio 2010 keep variances of layers without memory so.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cofm_triton.layers.recurrences.contract import Layer
from cofm_triton.step.activations import properties
from cofm_triton.step.coefficients import Modes, has_linear_state, only_rises
from cofm_triton.step.modes import mode_decay, normalized_gain, step_size
from cofm_triton.step.oscillation import effective_pair

# Most draws lie below the mean over all of them, and short sequences below long ones: fitted to 8 layers of 64 units at
# lengths from 64 to 16,384.
_TYPICAL = 1.05
_RISE = 1.3
_ANGLES = 512  # log-spaced: A changes with log w


def unit_factors(layer: Layer, modes: Modes, depth: int) -> Tensor:
    """f, one for each mode, (m,), like the rates; `depth` layers are below.

    Example:
        >>> from cofm_triton import StableRNN
        >>> slow = Modes(torch.tensor([1e-3]), None, 1.0, "exact")
        >>> round(float(unit_factors(StableRNN(1, 1), slow, 0)), 4)
        0.0224
    """
    if only_rises(layer):
        return _rising_factors(modes, depth)
    stays = modes if has_linear_state(layer) or not properties(layer.nonlinearity).is_bounded else _still(modes)
    return (modes.dt * step_size(*stays) / normalized_gain(*modes)).clamp(max=1)


def _still(modes: Modes) -> Modes:
    """The same without a turn."""
    return modes._replace(frequency=None)


def _rising_factors(modes: Modes, depth: int) -> Tensor:
    """Of units with relu inside, whose states only rise.

    Inputs multiplied by |1 - l| / dt make the state of a unit rise to the largest input so far: a fast unit at once, a
    slow one over a long time. That of a pair that turns rises to the input over its pull alpha, while its partner is at
    0: f has the factor dt alpha / |1 - l|. In the first layer that is all. In layers above f has the factor
    sqrt(|1 - l|), with a root mean square of 1, so that fast ones, whose size depends least on the length, count most;
    in the second also 1 / 1.3, fitted, as noise makes states of the first rise: to about 0.9 in 64 steps, and to 2.8 in
    16,384.
    """
    squares = (modes.dt * step_size(*modes)).clamp(max=1)
    pull = torch.ones_like(squares)
    if modes.frequency is not None:
        pull = effective_pair(modes.rate, modes.frequency, modes.dt, modes.discretization)[0] / step_size(*modes)
    if depth == 0:
        return pull
    return pull * (squares / squares.mean()).sqrt() / (_RISE if depth == 1 else 1)


def layer_factor(layer: Layer, modes: Modes, depth: int) -> Tensor:
    """c of the layer with `depth` others of its kind below, a number on the device of the rates.

    Example:
        >>> from cofm_triton import StableRNN
        >>> slow = Modes(torch.tensor([1e-3], dtype=torch.float64), None, 1.0, "exact")
        >>> round(float(layer_factor(StableRNN(1, 1), slow, 0)), 2)
        44.72
    """
    angles = torch.logspace(-8, math.log10(math.pi), _ANGLES, dtype=modes.rate.dtype, device=modes.rate.device)
    passed, still = unit_factors(layer, modes, depth).square(), _still(modes)
    decay = mode_decay(*still)
    share = (1 - decay) ** 2 + 4 * decay * torch.sin(angles[:, None] / 2).square()
    power = passed * normalized_gain(*still).square() / share
    if modes.frequency is not None:
        widest = modes.dt * modes.frequency.max()
        turned = torch.where(angles <= widest, math.pi / widest, 0)[:, None] * passed
        power = torch.where(modes.frequency == 0, power, turned)
    below, behind = (torch.trapezoid(power.mean(1) ** n, angles) / math.pi for n in (depth, depth + 1))
    return (below / behind).sqrt() * (_TYPICAL if depth and not has_mean(layer) else 1)


def has_mean(layer: Layer) -> bool:
    """Whether units of a layer above would sum up a mean that all outputs have."""
    passes = only_rises(layer) or not layer.oscillating
    return passes and properties(layer.nonlinearity).output_mean != 0


def balanced(rows: Tensor) -> Tensor:
    """Rows of a fresh U above outputs with a mean: without mean, each second one the negative of the one before.

    Example:
        >>> rows = balanced(torch.tensor([[3.0, 1.0], [0.5, 0.7]]))
        >>> bool((rows[1] == -rows[0]).all()), rows.sum(1).tolist()
        (True, [0.0, 0.0])
    """
    count = rows.shape[1]
    rows = rows - rows.mean(1, keepdim=True)
    rows[1::2] = -rows[: len(rows) - len(rows) % 2 : 2]
    return rows * math.sqrt(count / max(count - 1, 1))


def handed_on(layer: Layer, factors: Tensor) -> float | Tensor:
    """s of outputs of a layer with these factors f.

    Example:
        >>> from cofm_triton import StableRNN
        >>> handed_on(StableRNN(1, 4, nonlinearity="tanh"), torch.ones(2))
        0.628
    """
    act = properties(layer.nonlinearity)
    if layer.recurrence != "ssm" and not only_rises(layer):
        return 1.0  # saturation takes a little, unheeded
    if not has_mean(layer):
        return act.output_size
    alike = factors.mean().square() / factors.square().mean()
    return torch.sqrt(act.output_size**2 + act.output_mean**2 * (1 - alike))
