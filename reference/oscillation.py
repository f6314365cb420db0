"""Oscillating modes: pairs of units (2k, 2k+1) that decay with a rate r and turn with a frequency w.

    dh/dt = act(x - R h),   R = [[r, -w], [w, r]],      one step:   h' = h + dt act(x - A h)

    "euler"  A = R              "exact"  A = (I - M) / dt,  M = exp(-dt R) = e^{-dt r} [[cos, sin], [-sin, cos]](dt w)

Both A have the form [[alpha, -omega], [omega, alpha]], and M = I - dt A has eigenvalues m +- i q of modulus rho, with
m = 1 - dt alpha and q = dt omega. In the linear regime the pair is stable if and only if rho < 1: "exact" for every
rate r > 0 and every frequency, Euler's method while dt (r^2 + w^2) < 2 r.

**What is stable when act saturates**, for acts with act(0) = 0 and slopes in [0, 1]:

1. *Constant inputs: every pair with rho <= 1, whatever its angle.* Let z = x - A h, Phi(z) = int_0^z act >= 0 and
   V = Phi(z[0]) + Phi(z[1]). A step u = act(z) takes z to z - dt A u. Phi' is 1-Lipschitz and A's antisymmetric part
   vanishes in u^T A u = alpha |u|^2, so that V changes by at most

       -dt u^T A u + |dt A u|^2 / 2 = -(2 dt alpha - dt^2 (alpha^2 + omega^2)) |u|^2 / 2 = -(1 - rho^2) |u|^2 / 2.

   V never grows, and falls until act(z) = 0. No bound on the angle is needed.
2. *Every input: no difference between two states grows if and only if |m| + |q| <= 1.* A step multiplies differences
   (and gradients) by J = I - S (I - M), S = diag(s) with slopes s in [0, 1]^2. J is affine in each s, so that products
   of any slopes are averages of products of the four extreme ones: I, M, and M with one of its rows replaced by that
   of I, E0 = [[m, q], [0, 1]] and E1 = [[1, 0], [-q, m]]. Inputs that saturate one unit and not the other bring about
   each of them, so "every input" is "every product".
   - Enough: rows of J are averages of rows of I and M, whose absolute sums are 1 and |m| + |q|: the maximum norm of h
     never grows.
   - Needed: for 0 <= m < 1 and |q| > 1 - m, E0^n tends to [[0, k], [0, 1]] and E1^n to [[1, 0], [-k, 0]],
     k = q / (1 - m), so that the product tends to one with the eigenvalue -k^2, and |k| > 1: a state is turned by one
     unit at a time, each time as far as the unit's own decay lets it. For m < 0, E1 E0 has the characteristic
     polynomial p(l) with p(-1) = (1 + m)^2 - q^2 < 0, so an eigenvalue below -1.
     For m = 1 and q != 0, where alpha = 0, E0 is a shear, whose powers grow without bound.

   So a pair that only ever contracts turns no faster than it decays, |omega| <= alpha (m >= 0): `contracting_angle`. A
   bound that does not depend on the rate, such as dt |w| <= pi / 2, does not do: of pairs with rho = 1 only quarter
   turns (and no turn at all) contract. Beyond the bound gradients can grow along inputs that keep saturating
   one unit of a pair in turn, while states stay bounded: saturation itself limits what a difference can become.

3. *Bounded inputs: bounded states for alpha > 0* (in outline). hardtanh and tanh: with z = -A h far from 0, u is a
   vector of signs up to the input, and |z[0]| + |z[1]| falls by dt u^T A u = 2 dt alpha a step except near the lines
   z[i] = 0, which are crossed within a number of steps that does not depend on |h|, between stretches that are
   proportional to it. relu: states only grow, and z[i] <= 0 stops them.
"""

import math

import torch
from torch import Tensor

from .discretization import DISCRETIZATIONS, linear_decay, linear_gain


def effective_pair(rate: Tensor, frequency: Tensor, dt: float, discretization: str) -> tuple[Tensor, Tensor]:
    """The entries `(alpha, omega)` of A = [[alpha, -omega], [omega, alpha]] for a step `h + dt * act(e - A h)`.

        euler: (rate, frequency);   exact: dt alpha = 1 - e^{-dt r} cos(dt w),  dt omega = e^{-dt r} sin(dt w)

    1 - e^{-dt r} cos = -expm1(-dt r) + e^{-dt r} * 2 sin(dt w / 2)^2, a sum of what cannot cancel.

    Args:
        rate: r, any shape, 1 / time.
        frequency: w, like `rate`, 1 / time.
        dt: step, time.
        discretization: "euler" or "exact".

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> effective_pair(torch.zeros(1), torch.tensor([math.pi / 2]), 1.0, "exact")[1].tolist()
        [1.0]
    """
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization must be one of {DISCRETIZATIONS}, got {discretization!r}")
    if discretization == "euler":
        return rate, frequency
    decay, angle = torch.exp(-dt * rate), dt * frequency
    alpha = -torch.expm1(-dt * rate) + decay * 2 * torch.sin(angle / 2).square()
    return alpha / dt, decay * torch.sin(angle) / dt


def pair_matrix(alpha: Tensor, omega: Tensor) -> Tensor:
    """The matrices [[alpha, -omega], [omega, alpha]]: two axes more than the entries have.

    Example:
        >>> pair_matrix(torch.tensor(1.0), torch.tensor(2.0)).tolist()
        [[1.0, -2.0], [2.0, 1.0]]
    """
    return torch.stack((torch.stack((alpha, -omega), -1), torch.stack((omega, alpha), -1)), -2)


def contracts(alpha: Tensor, omega: Tensor, dt: float) -> Tensor:
    """Whether no input makes a difference between two states grow: |1 - dt alpha| + |dt omega| <= 1, see above.

    Example:
        >>> contracts(torch.tensor([1.0, 0.5]), torch.tensor([0.5, 1.0]), 0.5).tolist()
        [True, False]
    """
    return (1 - dt * alpha).abs() + (dt * omega).abs() <= 1


def contracting_angle(rate: Tensor, dt: float, discretization: str = "exact") -> Tensor:
    """The largest angle dt w such that pairs contract at this angle and at every smaller one.

        exact: e^{-dt r} (cos a + sin a) = 1   =>   tan(a / 2) = (e^{dt r} - 1) / (1 + sqrt(2 - e^{2 dt r}))
        euler: |1 - dt r| + a = 1              =>   a = min(dt r, 2 - dt r)

    "exact": about dt r for slow pairs, pi / 4 at e^{dt r} = sqrt(2), and infinite beyond: faster ones contract at every
    angle. Euler's method contracts at no angle for dt r > 2, and gets 0.

    Args:
        rate: r > 0, any shape, 1 / time.
        dt: step, time.
        discretization: "exact" or "euler".

    Example:
        >>> contracting_angle(torch.tensor([1.0]), 1.0).tolist()
        [inf]
    """
    if discretization == "euler":
        return torch.minimum(dt * rate, 2 - dt * rate).clamp(min=0)
    under = 1 - torch.expm1(2 * dt * rate)
    angle = 2 * torch.atan(torch.expm1(dt * rate) / (1 + under.clamp(min=0).sqrt()))
    return torch.where(under < 0, torch.full_like(rate, math.inf), angle)


def bounded_angle(raw: Tensor, largest: float | Tensor) -> Tensor:
    """An angle in (-largest, largest) from a free parameter: `largest * (2 / pi) atan(raw)`.

    Its slope falls like 1 / raw^2, so that a parameter far out still learns, where that of tanh falls exponentially.

    Args:
        raw: any shape.
        largest: > 0, a number or a tensor that broadcasts.

    Example:
        >>> bounded_angle(torch.tensor([0.0, 1.0]), 2.0).tolist()
        [0.0, 1.0]
    """
    return largest * (2 / math.pi) * torch.atan(raw)


def mode_decay(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """Decay l of the linear step h -> l h + g e, real of single units, complex of pairs read as h[2k] + i h[2k+1].

        z = rate + i frequency;   euler: 1 - dt z,   exact: exp(-dt z)

    Raises:
        ValueError: unknown discretization.
    """
    if frequency is None:
        return linear_decay(rate, dt, discretization)
    alpha, omega = effective_pair(rate, frequency, dt, discretization)
    return 1 - dt * torch.complex(alpha, omega)


def mode_gain(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """Gain g of the linear step; euler: dt, exact: (1 - exp(-dt z)) / z; arguments as `mode_decay`."""
    if frequency is None:
        return linear_gain(rate, dt, discretization)
    z = torch.complex(rate, frequency)
    if discretization == "euler":
        return dt * torch.ones_like(z)
    alpha, omega = effective_pair(rate, frequency, dt, discretization)
    return dt * torch.complex(alpha, omega) / z


def normalized_gain(rate: Tensor, frequency: Tensor | None, dt: float, discretization: str) -> Tensor:
    """sqrt(1 - |l|^2), 0 where |l| >= 1: the state of a unit then has the variance of a white input."""
    if discretization == "exact":
        return (-torch.expm1(-2 * dt * rate)).clamp(min=0).sqrt()
    decay = mode_decay(rate, frequency, dt, discretization)
    return (1 - decay.abs().square()).clamp(min=0).sqrt()


def frequency_unit(pairs: int, max_time_scale: float) -> Tensor:
    """What the frequencies of linear pairs are measured in, radians per time, (pairs,) float64.

        u[k] = max_time_scale^((p[k] - 1) / 2),   p[k] = k / (pairs - 1), of a single pair 1 / 2

    Pair k of a fresh layer remembers about max_time_scale^(1 - p[k]) steps: the slower it is, the less a step of an
    optimiser that moves every parameter alike moves its frequency.

    Example:
        >>> frequency_unit(3, 10_000.0).tolist(), frequency_unit(1, 10_000.0).tolist()
        ([0.01, 0.1, 1.0], [0.1])
    """
    place = torch.arange(pairs, dtype=torch.float64) / (pairs - 1) if pairs > 1 else torch.full((pairs,), 0.5).double()
    return max_time_scale ** ((place - 1) / 2)


def turning_frequency(raw: Tensor, rate: Tensor, nonlinearity: str, dt: float, discretization: str) -> Tensor:
    """The frequency w of a nonlinear pair from its free parameter, radians per time.

    The angle dt w lies within a quarter turn, and within the contracting angle where act is relu: gradients of faster
    pairs grow without bound there, because relu does not saturate upwards.
    """
    largest = torch.full_like(rate, math.pi / 2)
    if nonlinearity == "relu":
        largest = torch.minimum(largest, contracting_angle(rate, dt, discretization))
    return bounded_angle(raw, largest) / dt
