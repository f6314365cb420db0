"""The slope of log r in log T at the longest horizon, with its standard error.

    log r = a + b x + c x^2 + noise,    x = log(T / longest T),    least squares

b is the local slope d log r / d log T where it says most about large T. Why not one straight line: over a finite range
a radius that tends to a limit, r_inf + k T^-q, falls too. Its local slope -q k T^-q / r(T) goes to 0 as T^-q, while
that of a power k T^-s stays -s; the mean over a range tells the two apart only after the first has stopped bending. A
parabola is the expansion of both to second order in x, so b is what a line would give near the end, with the noise of
all horizons averaged.

The standard error of b is s |row of b in the pseudoinverse of (1, x, x^2)|. Few horizons leave few residuals, n - 3, to
estimate s from. They are pooled with the scatter of log r that retraining a model causes (the moderated variance of
Smyth, doi:10.2202/1544-6115.1027):

    s^2 = (`PRIOR_WEIGHT` scatter^2 + sum of squared residuals) / (`PRIOR_WEIGHT` + n - 3)

For horizons T, 2T, 4T, 8T, 16T the error of b is 1.6 s, without the shortest 2.3 s, of three horizons 3.7 s.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

SCATTER = 0.05
"""Standard deviation of log r from one training to the next (measured: `bench/VERDICTS.md`)."""

PRIOR_WEIGHT = 4
"""Residuals that `SCATTER` counts as much as."""

FEWEST = 3
"""Different horizons from which curvature is known."""


class LocalSlope(NamedTuple):
    """A slope and what it rests on.

    Attributes:
        slope: d log r / d log T at the longest horizon.
        error: its standard error.
        trend: how much the slope grows while T doubles: > 0 for radii that level off.
    """

    slope: float
    error: float
    trend: float


def local_slope(horizons: Sequence[int], radii: Sequence[float], scatter: float = SCATTER) -> LocalSlope:
    """Fit the parabola.

    Args:
        horizons: at least three different lengths; a length may come several times, for models trained anew.
        radii: one per horizon, positive and finite.
        scatter: of log r; 0 for radii without noise, whose error is then that of the parabola alone.

    Example:
        >>> fit = local_slope((100, 200, 400, 800), [3 * t**-0.7 for t in (100, 200, 400, 800)])
        >>> round(fit.slope, 3), round(fit.error, 2)
        (-0.7, 0.1)
    """
    x = torch.tensor(horizons, dtype=torch.float64, device="cpu").log()
    x = x - x.max()
    y = torch.tensor(radii, dtype=torch.float64, device="cpu").log()
    design = torch.stack([torch.ones_like(x), x, x.square()], 1)
    inverse = torch.linalg.pinv(design)
    fit = inverse @ y
    misses = float((y - design @ fit).square().sum())
    variance = (PRIOR_WEIGHT * scatter**2 + misses) / (PRIOR_WEIGHT + len(y) - FEWEST)
    return LocalSlope(float(fit[1]), math.sqrt(variance) * float(inverse[1].norm()), 2 * math.log(2) * float(fit[2]))
