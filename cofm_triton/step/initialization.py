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
    values = values.to(parameter.dtype).to(parameter.device)
    mesh = getattr(parameter, "device_mesh", None)
    if mesh is not None:  # a DTensor, into which no plain tensor can be copied
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(parameter, DTensor)
        values = distribute_tensor(values, mesh, parameter.placements)
    parameter.copy_(values)


@torch.no_grad()
def whole(parameter: Tensor) -> Tensor:
    """All values of a parameter, float64 (see `wide.py`): of a `DTensor` those of every shard."""
    gather = getattr(parameter, "full_tensor", None)
    return widened(parameter if gather is None else gather()).clone()


def random_orthogonal(size: int, device: torch.device) -> Tensor:
    """A random orthogonal matrix, uniform in Haar's sense, (size, size) float64 (see `wide.py`)."""
    return nn.init.orthogonal_(widened(torch.empty(size, size, device=device)))
