"""The nonlinearities by name, and the numbers behind the tanh of the Triton kernels.

`tanh(z) = z + z w P(w)`, `w = z^2`, for `|z| < threshold`, and `1 - 2 / (exp(2 |z|) + 1)` with the sign of z beyond. In
float32, P is a minimax fit in relative error (4.7e-9), and a quotient is the inverse square root of a square. The
threshold is where the quotient has become small enough for its errors not to matter: with exp2 and the inverse root
both taken to be 2 units in the last place off, up or down, every float32 |z| from 1 to 10 has its tanh within 2.5 units
of the exact one and 2 of `torch.tanh`, every one from 1e-4 to 1 within 1: found by going through all of them. Smaller z
come out as z, larger ones as 1, as they should.
"""

from __future__ import annotations

from typing import NamedTuple

NONLINEARITIES = ("linear", "tanh", "hardtanh", "relu")


class TanhFit(NamedTuple):
    """Largest |z| of the polynomial, and its coefficients from the lowest power of w up."""

    threshold: float
    coefficients: tuple[float, ...]


TANH_FLOAT32 = TanhFit(
    1.0,
    (
        -0.33333295583724976,
        0.13332346081733704,
        -0.05387984588742256,
        0.0214866753667593,
        -0.007946009747684002,
        0.00230122241191566,
        -0.0003583947254810482,
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
