"""The nonlinearities, in one table: the function, and its differences without cancellation."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Nonlinearity:
    """A scalar function act and its exact differences.

    Attributes:
        name: the name used throughout the library.
        act: act(z), elementwise. At NaN it is NaN. The derivative of hardtanh and relu is 0 wherever the comparison
            that makes it 1 is false: at a kink, where PyTorch's is 0 too, and at NaN, where PyTorch's is 1.
        difference: `difference(z, step)` is act(z + step) - act(z), to full relative accuracy even where it is small
            beside act(z).
    """

    name: str
    act: Callable[[Tensor], Tensor]
    difference: Callable[[Tensor, Tensor], Tensor]


def _identity(z: Tensor) -> Tensor:
    return z


def _linear_difference(z: Tensor, step: Tensor) -> Tensor:
    return step + torch.zeros_like(z)


def _tanh_difference(z: Tensor, step: Tensor) -> Tensor:
    """sinh(step) / (cosh(z) cosh(z + step)), with the three exponents joined.

    The joined exponent |step| - |z| - |z + step| is never positive: nothing overflows.
    """
    end = z + step
    scale = torch.exp(step.abs() - z.abs() - end.abs())
    damping = (1 + torch.exp(-2 * z.abs())) * (1 + torch.exp(-2 * end.abs()))
    return -2 * torch.sign(step) * torch.expm1(-2 * step.abs()) * scale / damping


def _hardtanh(z: Tensor) -> Tensor:
    return torch.where(z.abs() < 1, z, F.hardtanh(z.detach()))


def _relu(z: Tensor) -> Tensor:
    return torch.where(z > 0, z, torch.relu(z.detach()))


def _piecewise_difference(
    act: Callable[[Tensor], Tensor], linear: Callable[[Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Difference of a piecewise linear act: the step itself where both ends are on the slope."""

    def difference(z: Tensor, step: Tensor) -> Tensor:
        end = z + step
        return torch.where(linear(z) & linear(end), step, act(end) - act(z))

    return difference


def _inside_unit(z: Tensor) -> Tensor:
    return z.abs() <= 1


def _positive(z: Tensor) -> Tensor:
    return z >= 0


NONLINEARITIES: dict[str, Nonlinearity] = {
    entry.name: entry
    for entry in (
        Nonlinearity("linear", _identity, _linear_difference),
        Nonlinearity("tanh", torch.tanh, _tanh_difference),
        Nonlinearity("hardtanh", _hardtanh, _piecewise_difference(F.hardtanh, _inside_unit)),
        Nonlinearity("relu", _relu, _piecewise_difference(torch.relu, _positive)),
    )
}


def nonlinearity(name: str) -> Nonlinearity:
    """Look up a nonlinearity: "linear" z, "tanh", "hardtanh" min(max(z, -1), 1), "relu" max(z, 0).

    Raises:
        ValueError: unknown name.

    Example:
        >>> nonlinearity("hardtanh").act(torch.tensor([-3.0, 0.5])).tolist()
        [-1.0, 0.5]
    """
    if name not in NONLINEARITIES:
        raise ValueError(f"nonlinearity must be one of {tuple(NONLINEARITIES)}, got {name!r}")
    return NONLINEARITIES[name]
