"""Fresh values for parameters wherever they are: on any device, without numbers ("meta"), or in shards."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cofm_triton.step.wide import widened


@torch.no_grad()
def assign(parameter: Tensor, values: Tensor) -> None:
    """Replace the numbers of a parameter.

    Args:
        parameter: any device and dtype; a `DTensor` keeps its shards of the values, which are then those of rank 0.
        values: the same shape; any device and floating-point dtype.

    Example:
        >>> rate = nn.Parameter(torch.empty(2))
        >>> assign(rate, torch.tensor([0.5, 0.25]))
        >>> rate.tolist()
        [0.5, 0.25]
    """
    parameter.copy_(_placed(parameter, values))


@torch.no_grad()
def scale_rows(parameter: Tensor, factors: Tensor) -> None:
    """Multiply the rows of a parameter (n, m) by `factors`, (n,); otherwise as `assign`.

    Example:
        >>> weight = nn.Parameter(torch.ones(2, 1))
        >>> scale_rows(weight, torch.tensor([0.5, 2.0]))
        >>> weight.tolist()
        [[0.5], [2.0]]
    """
    parameter.mul_(_placed(parameter, factors[:, None].expand(parameter.shape)))


@torch.no_grad()
def whole(parameter: Tensor) -> Tensor:
    """All values of a parameter, float64 (see `wide.py`): of a `DTensor` those of every shard."""
    gather = getattr(parameter, "full_tensor", None)
    return widened(parameter if gather is None else gather()).clone()


def _placed(parameter: Tensor, values: Tensor) -> Tensor:
    """The values with the dtype and the place of the parameter, of whose shape they are."""
    values = values.to(parameter.dtype).to(parameter.device)
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is None:
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(parameter, DTensor)  # with which no plain tensor can be combined
    return distribute_tensor(values, mesh, parameter.placements)


def random_orthogonal(size: int, device: torch.device) -> Tensor:
    """A random orthogonal matrix, uniform in Haar's sense, (size, size) float64 (see `wide.py`)."""
    return nn.init.orthogonal_(widened(torch.empty(size, size, device=device)))
