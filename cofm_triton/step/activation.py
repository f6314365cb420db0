"""The nonlinearities act(z) as PyTorch functions: one table.

The derivative at a kink is PyTorch's: 0 for relu at 0 and for hardtanh at -1 and 1.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.step.nonlinearity import NONLINEARITIES
from cofm_triton.support.scalars import check_choice


def _identity(z: Tensor) -> Tensor:
    return z


_TABLE: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _identity,
    "tanh": torch.tanh,
    "hardtanh": F.hardtanh,
    "relu": torch.relu,
}


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function behind a name: "linear" z, "tanh", "hardtanh" clamp(z, -1, 1), "relu" max(z, 0).

    Raises:
        ValueError: unknown name.

    Example:
        >>> activation("hardtanh")(torch.tensor([-3.0, 0.5])).tolist()
        [-1.0, 0.5]
    """
    check_choice("nonlinearity", name, NONLINEARITIES)
    return _TABLE[name]


def _slope_linear(z: Tensor) -> Tensor:
    return torch.ones_like(z)


def _slope_tanh(z: Tensor) -> Tensor:
    return 1 - torch.tanh(z).square()


def _slope_hardtanh(z: Tensor) -> Tensor:
    return (z.abs() < 1).to(z.dtype)


def _slope_relu(z: Tensor) -> Tensor:
    return (z > 0).to(z.dtype)


_SLOPES: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": _slope_linear,
    "tanh": _slope_tanh,
    "hardtanh": _slope_hardtanh,
    "relu": _slope_relu,
}


def activation_slope(name: str) -> Callable[[Tensor], Tensor]:
    """The derivative act'(z) behind a name, differentiable once more where act is smooth.

    Raises:
        ValueError: unknown name.

    Example:
        >>> activation_slope("hardtanh")(torch.tensor([-3.0, 0.5, 1.0])).tolist()
        [0.0, 1.0, 0.0]
    """
    if name not in _SLOPES:
        raise ValueError(f"nonlinearity must be one of {NONLINEARITIES}, got {name!r}")
    return _SLOPES[name]
