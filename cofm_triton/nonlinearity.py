"""The nonlinearities by name, and the numbers behind the tanh of the Triton kernels.

`tanh(z) = z + z w P(w)`, `w = z^2`, for `|z| < threshold`, where `1 - 2 / (exp(2 |z|) + 1)` would cancel, and that
expression, with the sign of z, beyond. In float32, P is a minimax fit in relative error (1.7e-9): at most 1.5 ulp off
with a correctly rounded exp, measured on two million points against float64.
"""

from __future__ import annotations

from typing import NamedTuple

NONLINEARITIES = ("linear", "tanh", "hardtanh", "relu")


class TanhFit(NamedTuple):
    """Largest |z| of the polynomial, and its coefficients from the lowest power of w up."""

    threshold: float
    coefficients: tuple[float, ...]


TANH_FLOAT32 = TanhFit(
    0.75,
    (
        -0.33333316445350647,
        0.1333269476890564,
        -0.053892724215984344,
        0.021452033892273903,
        -0.007657254580408335,
        0.0017369354609400034,
    ),
)
# The Taylor series is short enough here: its first neglected term is below 1e-16 of the sum.
TANH_FLOAT64 = TanhFit(
    0.25,
    (
        -1 / 3,
        2 / 15,
        -17 / 315,
        62 / 2835,
        -1382 / 155925,
        21844 / 6081075,
        -929569 / 638512875,
        6404582 / 10854718875,
        -443861162 / 1856156927625,
    ),
)
