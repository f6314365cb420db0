"""Exponential or polynomial: how a memory function decays (arXiv 2305.19190, after Definition 3.1).

What is fitted is the tail envelope  env(t) = max_{s >= t} M(s),  which decays exactly as M does and
has no zeros in between, on the later part of the record (from a quarter to nine tenths of it):

    exponential   log env = a - rate t
    polynomial    log env = a - exponent log(t + shift),  0 <= shift <= the end of the record, exponent <= 10

by least squares. The smaller residual decides, and the logarithm of the residuals' ratio is the
margin: below about 0.5 the record cannot tell, above 1 one curve is clearly better. A polynomial with
a shift beyond the record is an exponential as far as the record shows, hence the bound.
A record that ends before its slowest mode decays may look polynomial: the verdict is about the times
covered, so ask for a length of several times the slowest time scale.

A memory function has no noise, so there is no standard error. What a finite record cannot tell is how
the curve goes on; `interval` shows how much it still bends: the better law is fitted to the early and to
the late half of the window as well. A law that holds has the same rate in both.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.support.scalars import check_not_negative, check_real
from cofm_triton.support.tensors import check_real_tensor

_BEGIN, _END = 0.25, 0.9  # of the record; the envelope of its last stretch looks at too few steps
_FEWEST = 6  # points that are worth a fit of three parameters
_MOST = 2000
_TINY = 1e-300  # below it float64 loses digits
_ABRUPT = 1e-30  # memory that stops dead above this share of its largest value is compact
_CLEAR = 1e3  # above this multiple of rounding a value is one
# Falls in nats within the window that are decay only if a fit explains this share of the variance.
_SLIGHT, _SLIGHT_EXPLAINED = 0.5, 0.9
_MODERATE, _MODERATE_EXPLAINED = 2.0, 0.5
_CLEAR_MARGIN = 0.5
_EXACT = 1e-9  # residual in nats that counts as zero
_SHIFTS = 120  # in six decades
_STEEPEST = 10.0  # largest exponent of a polynomial: steeper ones are exponentials in disguise


@dataclass(frozen=True)
class DecayFit:
    """How a memory function decays.

    Attributes:
        decay: "exponential" (or faster), "polynomial", or "none" (it does not decay in the record).
        rate: of "exponential", 1 / time, infinite for a memory that ends; of "polynomial" the
            exponent; 0 for "none".
        exponent: of the polynomial fit, whichever is better; NaN without one.
        shift: of the polynomial fit, time.
        scale: e^a of the better fit.
        margin: how much better the fit is than the other one, log of the ratio of residuals.
        r_squared: share of the variance of log M that the fit explains.
        window: first and last time fitted.
        interval: smallest and largest rate of this law on the window and its two halves; NaN where nothing is fitted.
        beta0: slowest decay rate of the model, 1 / time: the theorem's bound, NaN if unknown.
    """

    decay: str
    rate: float
    exponent: float
    shift: float
    scale: float
    margin: float
    r_squared: float
    window: tuple[float, float]
    beta0: float = math.nan
    interval: tuple[float, float] = (math.nan, math.nan)

    @property
    def is_clear(self) -> bool:
        """Whether the record tells the two laws apart: a margin of at least 0.5, or no decay."""
        return self.decay == "none" or self.margin >= _CLEAR_MARGIN

    @property
    def within_bound(self) -> bool:
        """Whether the decay is as fast as Theorem 3.9 asks: exponential, no slower than beta0 (to 1 %).

        True for beta0 <= 0, which asks for nothing, False if beta0 is unknown.
        """
        if math.isnan(self.beta0):
            return False
        fast = self.decay == "exponential" and self.rate >= 0.99 * self.beta0
        return fast or self.beta0 <= 0

    def curve(self, times: Tensor) -> Tensor:
        """The fitted memory at some times (n,), NaN where there is no fit."""
        if self.decay == "exponential" and math.isfinite(self.rate):
            return self.scale * torch.exp(-self.rate * times)
        if self.decay == "polynomial":
            return self.scale * (times + self.shift) ** -self.rate
        return torch.full_like(times, self.scale if self.decay == "none" else torch.nan)

    def __str__(self) -> str:
        if self.decay == "none":
            return "no decay"
        if math.isinf(self.rate):
            return f"ends: 0 after t = {self.window[1]:.4g}"
        law = f"exp(-{self.rate:.4g} t)" if self.decay == "exponential" else f"(t + {self.shift:.4g})^-{self.rate:.4g}"
        bound = "" if math.isnan(self.beta0) else f", beta0 {self.beta0:.4g}"
        halves = "" if math.isnan(self.interval[0]) else ", {:.3g} to {:.3g} on halves".format(*self.interval)
        unsure = "" if self.is_clear else "undecided: "
        return f"{unsure}{self.decay}, {law}{halves}, margin {self.margin:.2f}{bound}"


def fit_decay(times: Tensor, values: Tensor, *, floor: float = 0.0, beta0: float = math.nan) -> DecayFit:
    """Tell how a memory function decays.

    Args:
        times: (n,) ascending, >= 0.
        values: M, (n,), >= 0; an infinite value counts as no decay.
        floor: values below it are rounding, and the record ends where they begin.
        beta0: passed on.

    Raises:
        TypeError: `times` or `values` is no floating-point tensor, `floor` or `beta0` no number.
        ValueError: shapes that differ, a negative floor, or fewer than 6 values that are not zero nor rounding.

    Example:
        >>> t = torch.arange(100, dtype=torch.float64)
        >>> fit = fit_decay(t, 3 * torch.exp(-0.5 * t))
        >>> fit.decay, round(fit.rate, 6)
        ('exponential', 0.5)
    """
    _check(times, values)
    floor, beta0 = check_not_negative("floor", floor, finite=False), check_real("beta0", beta0)
    t, value = times.detach().double().cpu(), values.detach().double().cpu()
    if not bool(value.isfinite().all()):
        return _no_decay(t, math.inf, beta0)
    envelope = value.flip(0).cummax(0).values.flip(0)
    kept = envelope > max(floor, _TINY)
    count = int(kept.sum())  # the envelope falls: the first ones
    if _ends_abruptly(t, envelope, count, floor):
        window = (0.0, t[max(0, count - 1)].item())
        return DecayFit("exponential", math.inf, math.nan, 0.0, 0.0, math.inf, 1.0, window, beta0)
    if count < _FEWEST:
        raise ValueError(f"length must leave {_FEWEST} values of the memory above zero and rounding, got {count}")
    t, envelope = _window(t[:count], envelope[:count])
    return _decide(t, envelope.log(), beta0)


def _ends_abruptly(t: Tensor, envelope: Tensor, count: int, floor: float) -> bool:
    """Whether memory is exactly 0 from well before the end, and was not about to underflow or to drown in rounding."""
    if count == len(t) or envelope[count] > 0 or t[count] > _END * t[-1]:
        return False
    return count == 0 or envelope[count - 1].item() > max(_ABRUPT * envelope[0].item(), _CLEAR * floor)


def _window(t: Tensor, envelope: Tensor) -> tuple[Tensor, Tensor]:
    """The later part of a record, all of it if that has too few points; every so many steps if it has too many."""
    inside = ((t >= _BEGIN * t[-1]) & (t <= _END * t[-1])).nonzero()[:, 0]
    if len(inside) < _FEWEST:
        inside = torch.arange(len(t), device="cpu")
    if len(inside) > _MOST:
        inside = inside[torch.linspace(0, len(inside) - 1, _MOST, device="cpu").round().long()]
    return t[inside], envelope[inside]


def _decide(t: Tensor, log: Tensor, beta0: float) -> DecayFit:
    variance = float((log - log.mean()).square().mean())
    rate, level, miss = _line(t, log)
    shift, exponent, height, other = _polynomial(t, log)
    best = min(miss, other)
    explained = 1 - best**2 / variance if variance > 0 else 0.0
    if not _is_decay(float(log[0] - log[-1]), variance, explained):
        return _no_decay(t, float(log.mean().exp()), beta0)
    window = (t[0].item(), t[-1].item())
    margin = abs(math.log(max(other, _EXACT) / max(miss, _EXACT)))
    if miss <= max(other, _EXACT):
        interval, scale = _on_halves(t, log, rate), math.exp(level)
        return DecayFit("exponential", rate, exponent, shift, scale, margin, explained, window, beta0, interval)
    interval, scale = _on_halves(torch.log(t + shift), log, exponent), math.exp(min(height, 700.0))
    return DecayFit("polynomial", exponent, exponent, shift, scale, margin, explained, window, beta0, interval)


def _on_halves(x: Tensor, y: Tensor, slope: float) -> tuple[float, float]:
    """Smallest and largest of the slope of y over x, and of those on the early and the late half, by x."""
    early = x <= (x[0] + x[-1]) / 2
    slopes = [slope, *(_line(x[half], y[half])[0] for half in (early, ~early) if int(half.sum()) > 1)]
    return min(slopes), max(slopes)


def _is_decay(fall: float, variance: float, explained: float) -> bool:
    """Whether the envelope falls by more than its last stretch and its noise."""
    if math.sqrt(variance) <= _EXACT or (fall < _SLIGHT and explained < _SLIGHT_EXPLAINED):
        return False
    return fall >= _MODERATE or explained >= _MODERATE_EXPLAINED


def _no_decay(t: Tensor, scale: float, beta0: float) -> DecayFit:
    return DecayFit("none", 0.0, math.nan, 0.0, scale, 0.0, 0.0, (t[0].item(), t[-1].item()), beta0)


def _line(x: Tensor, y: Tensor, steepest: float = math.inf) -> tuple[float, float, float]:
    """Least squares y = level - slope x, slope <= steepest: slope, level, root mean square of what is left."""
    centred = x - x.mean()
    slope = (-(centred * y).sum() / centred.square().sum()).clamp(max=steepest)
    left = y - y.mean() + slope * centred
    return float(slope), float(y.mean() + slope * x.mean()), float(left.square().mean().sqrt())


def _polynomial(t: Tensor, y: Tensor) -> tuple[float, float, float, float]:
    """Least squares y = height - exponent log(t + shift): shift, exponent, height, residual."""
    end = t[-1].item()
    first = 0.0 if t[0] > 0 else 1e-6 * end
    shifts = [first, *(end * 10 ** (-6 + 6 * i / _SHIFTS) for i in range(_SHIFTS + 1))]

    def residual(shift: float) -> float:
        return _line(torch.log(t + shift), y, _STEEPEST)[2]

    i = min(range(len(shifts)), key=lambda i: residual(shifts[i]))
    shift = _golden(residual, shifts[max(0, i - 1)], shifts[min(len(shifts) - 1, i + 1)])
    shift = min(shift, shifts[i], key=residual)
    exponent, height, miss = _line(torch.log(t + shift), y, _STEEPEST)
    return shift, exponent, height, miss


def _golden(function: Callable[[float], float], low: float, high: float) -> float:
    """The minimum of a unimodal function by golden sections."""
    share = (math.sqrt(5) - 1) / 2
    for _ in range(60):
        left, right = high - share * (high - low), low + share * (high - low)
        if function(left) <= function(right):
            high = right
        else:
            low = left
    return (low + high) / 2


def _check(times: Tensor, values: Tensor) -> None:
    for name, value in (("times", times), ("values", values)):
        check_real_tensor(name, value)
        if value.dim() != 1 or value.shape != times.shape:
            raise ValueError(
                f"{name} must have shape (n,), that of times, {tuple(times.shape)}, got {tuple(value.shape)}"
            )
