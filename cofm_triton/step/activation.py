"""The nonlinearities as PyTorch functions, from the rows of `activations/`.

The derivative at a kink is PyTorch's: 0 for relu at 0 and for hardtanh at -1 and 1.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from cofm_triton.step.activations import NONLINEARITIES, TorchBodies, properties

_BODIES = {name: properties(name).torch(torch) for name in NONLINEARITIES}


def bodies(name: str) -> TorchBodies:
    """All functions of a nonlinearity.

    Raises:
        ValueError: unknown name.

    Example:
        >>> bodies("hardtanh").difference(torch.tensor(0.5), torch.tensor(2.0)).item()
        0.5
    """
    return _BODIES[properties(name).name]


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function behind a name, one of `NONLINEARITIES`: "linear" z, "hardtanh" clamp(z, -1, 1), "relu" max(z, 0).

    Raises:
        ValueError: unknown name.

    Example:
        >>> activation("hardtanh")(torch.tensor([-3.0, 0.5])).tolist()
        [-1.0, 0.5]
    """
    return bodies(name).act


def activation_slope(name: str) -> Callable[[Tensor], Tensor]:
    """The derivative act'(z) behind a name, differentiable once more where act is smooth.

    Raises:
        ValueError: unknown name.

    Example:
        >>> activation_slope("hardtanh")(torch.tensor([-3.0, 0.5, 1.0])).tolist()
        [0.0, 1.0, 0.0]
    """
    return bodies(name).slope
