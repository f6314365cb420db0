"""The ranks of a process group in the order of a computation, and what they tell each other.

Everything sent has the size of a state or of a summary: no message grows with the length of a sequence.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.device_mesh import DeviceMesh

Group = ProcessGroup | DeviceMesh | None


@dataclass(frozen=True)
class Ranks:
    """Ranks that hold consecutive slices of time.

    Attributes:
        group: the process group; the slice of its rank r comes before that of its rank r + 1.
        backward: whether the last rank is the first to compute.
    """

    group: ProcessGroup
    backward: bool = False

    @property
    def count(self) -> int:
        """How many there are."""
        return dist.get_world_size(self.group)

    @property
    def index(self) -> int:
        """The place of this one in the order of the computation."""
        return self._place(dist.get_rank(self.group))

    def turned(self, turn: bool = True) -> Ranks:
        """The same ranks, in the opposite order where `turn` is True."""
        return replace(self, backward=self.backward != turn)

    def gather(self, *tensors: Tensor) -> list[Tensor]:
        """Tensors of all ranks in one collective, (count, ...) each, in the order of the computation.

        Args:
            tensors: the same shapes on all ranks, and one dtype but for real and imaginary parts.
        """
        flat = torch.cat([_reals(tensor) for tensor in tensors])
        rows = flat.new_empty((self.count, len(flat)))
        if len(flat):  # a batch without sequences has nothing to tell
            dist.all_gather(list(rows.unbind()), flat, self.group)
        rows = rows.flip(0) if self.backward else rows
        parts = rows.split([len(_reals(tensor)) for tensor in tensors], 1)
        return [_like(part, tensor) for part, tensor in zip(parts, tensors, strict=True)]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks."""
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=self.group)
        return total

    def from_last(self, tensor: Tensor) -> Tensor:
        """What the last rank of the order has."""
        tensor = tensor.contiguous()
        dist.broadcast(tensor, group=self.group, group_src=self._place(self.count - 1))
        return tensor

    def send(self, tensor: Tensor) -> Any:
        """To the next rank; what is returned is to be waited for, and keeps the tensor till then."""
        tensor = tensor.contiguous()
        return dist.isend(tensor, group=self.group, group_dst=self._place(self.index + 1)), tensor

    def receive(self, like: Tensor) -> Tensor:
        """From the rank before."""
        tensor = torch.empty_like(like, memory_format=torch.contiguous_format)
        dist.recv(tensor, group=self.group, group_src=self._place(self.index - 1))
        return tensor

    def _place(self, rank: int) -> int:
        """From a rank of the group to its place in the order, and back."""
        return self.count - 1 - rank if self.backward else rank

    def __deepcopy__(self, memo: Any) -> Ranks:
        """Copies of a model talk to the same ranks."""
        return self


def ranks_of(group: Group | Ranks) -> Ranks:
    """The ranks of a process group, of a mesh of one dimension, or (None) of the default group.

    Raises:
        TypeError: it is none of these.
        ValueError: the mesh has more dimensions than one; or there is no default group.
    """
    if isinstance(group, Ranks):
        return group
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            names = group.mesh_dim_names
            raise ValueError(
                f"group must be one dimension of a mesh, mesh['name'], got {group.ndim} dimensions {names}"
            )
        return Ranks(group.get_group())
    if group is None:
        default = dist.group.WORLD if dist.is_initialized() else None
        if default is None:
            raise ValueError("group=None is the default group: call torch.distributed.init_process_group first")
        return Ranks(default)
    if not isinstance(group, ProcessGroup):
        raise TypeError(
            f"group must be a ProcessGroup, a DeviceMesh of one dimension or None, got {type(group).__name__}"
        )
    return Ranks(group)


def _reals(tensor: Tensor) -> Tensor:
    """All numbers in one row, complex ones as two."""
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).reshape(-1)


def _like(rows: Tensor, tensor: Tensor) -> Tensor:
    """(count, numbers) as (count, ...)."""
    if tensor.is_complex():
        return torch.view_as_complex(rows.reshape(len(rows), *tensor.shape, 2))
    return rows.reshape(len(rows), *tensor.shape)
