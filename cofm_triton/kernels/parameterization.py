"""Rates from raw parameters inside kernels: `a = f(w)`, or `(1 - exp(-dt f(w))) / dt` where EXACT, and `da / dw`.

The functions f are the bodies of the rows in `step/parameterizations`. All is float64 on the way, whatever the state:
it happens once per channel and program, and leaves the rate off by one rounding of the state. NaN propagates.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofm_triton.kernels import elementary
from cofm_triton.kernels.by_name import chosen, jit
from cofm_triton.kernels.elementary import complement
from cofm_triton.step.parameterizations import PARAMETERIZATIONS, rate_function

_ROWS = {name: rate_function(name).triton(jit, tl, elementary) for name in PARAMETERIZATIONS}

function = chosen("function", "w", "PARAMETERIZATION", {name: row.rate for name, row in _ROWS.items()})
derivative = chosen("derivative", "w", "PARAMETERIZATION", {name: row.slope for name, row in _ROWS.items()})


@triton.jit
def step_rate(w, dt, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr):
    """a, in the dtype of w; dt is float64."""
    rate = function(w.to(tl.float64), PARAMETERIZATION=PARAMETERIZATION)
    if EXACT:
        rate = complement(dt * rate) / dt
    return rate.to(w.dtype)


@triton.jit
def step_rate_slope(w, dt, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr):
    """da / dw, in the dtype of w; dt is float64."""
    slope = derivative(w.to(tl.float64), PARAMETERIZATION=PARAMETERIZATION)
    if EXACT:
        slope *= tl.exp(-dt * function(w.to(tl.float64), PARAMETERIZATION=PARAMETERIZATION))
    return slope.to(w.dtype)
