"""Rates of a step from raw parameters, `a = f(w)` or `(1 - exp(-dt f(w))) / dt`, and `da / dw`, as PyTorch functions.

Kernels do the same inside, `kernels/parameterization.py`; both names are those of the layers' options.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.step.discretization import effective_rate, is_exact
from cofm_triton.step.parameterization import parameterization as look_up


def step_rate(w: Tensor, dt: float, parameterization: str, discretization: str) -> Tensor:
    """a, (D,) in the dtype of w, float32 or float64; differentiable.

    Example:
        >>> step_rate(torch.zeros(1), 0.5, "exp", "euler").tolist()
        [1.0]
    """
    if parameterization == "direct" and discretization == "euler":
        return w  # small problems wait for the host
    return effective_rate(look_up(parameterization).rate(w), dt, discretization)


def step_rate_slope(w: Tensor, dt: float, parameterization: str, discretization: str) -> Tensor:
    """da / dw, like w; differentiable.

    Example:
        >>> step_rate_slope(torch.zeros(1), 0.5, "exp", "euler").tolist()
        [1.0]
    """
    kind = look_up(parameterization)
    slope = kind.derivative(w)
    return slope * torch.exp(-dt * kind.rate(w)) if is_exact(discretization) else slope
