"""Cases that `rank_pool.py` runs on every rank: each computes the right answer from all slices by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

import cofm_triton as cofm
from cofm_triton import distributed
from cofm_triton.evidence.draws import decays
from cofm_triton.evidence.operators.linear_scan import linear_problem
from cofm_triton.evidence.tolerance.linear_scan import linear_scan_bounds

COLLECTIVES = ("all_gather", "all_reduce", "broadcast", "isend", "recv")


@contextmanager
def counted() -> Iterator[list[tuple[str, int]]]:
    """Every message of this rank: which function, and how many bytes it gives away or takes in."""
    calls: list[tuple[str, int]] = []

    def counting(name: str, function: Callable[..., Any], *tensors: Tensor, **options: Any) -> Any:
        sent = next(t for t in reversed(tensors) if isinstance(t, Tensor))
        calls.append((name, sent.numel() * sent.itemsize))
        return function(*tensors, **options)

    with mock.patch.multiple(dist, **{name: partial(counting, name, getattr(dist, name)) for name in COLLECTIVES}):
        yield calls


def slices(length: int, ranks: int, cut: str) -> list[slice]:
    """Of one sequence: of equal length, nearly, or of very unequal ones."""
    if cut == "even":
        ends = [length * (k + 1) // ranks for k in range(ranks)]
    else:  # the first has most of the steps, the second none
        ends = [length - (ranks - 2), *(length - (ranks - 1 - k) for k in range(1, ranks))]
    return [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]


def joined(mine: Tensor, ranks: DeviceMesh) -> Tensor:
    """The slices of all ranks along time."""
    parts: list[Any] = [None] * ranks.size()
    dist.all_gather_object(parts, mine.detach(), group=ranks.get_group())
    return torch.cat(parts, 1)


def total(share: Tensor, ranks: DeviceMesh) -> Tensor:
    """The sum of all ranks' shares."""
    share = share.detach().clone()
    dist.all_reduce(torch.view_as_real(share) if share.is_complex() else share, group=ranks.get_group())
    return share


def check_linear_scan(
    ranks: DeviceMesh, length: int, cut: str, dtype: torch.dtype, gated: bool, reverse: bool, pairs: bool, states: bool
) -> None:
    """Within the bounds of `cofm.linear_scan`, all gradients included; in one collective each way."""
    problem = linear_problem(2, length, 3, dtype=dtype, gated=gated, reverse=reverse, pairs=pairs, states=states)
    bounds, rank = problem.bounds(), ranks.get_local_rank()
    mine = slices(length, ranks.size(), cut)[rank]
    tensors = {name: (t[:, mine] if t.dim() == 3 else t).requires_grad_() for name, t in problem.tensors.items()}
    with counted() as calls:
        h, last = distributed.linear_scan(**tensors, reverse=reverse, group=ranks)
    assert [name for name, _ in calls] == ["all_gather"]
    with counted() as calls:  # the derivative by what all ranks have comes from one of them
        pulls = problem["grad_h"][:, mine], problem["grad_last"] * (rank == 1)
        grads = torch.autograd.grad((h, last), list(tensors.values()), pulls)
    assert [name for name, _ in calls] == ["all_gather"]
    results = {"h": joined(h, ranks), "h_last": last}
    for (name, tensor), grad in zip(tensors.items(), grads, strict=True):
        results[f"grad_{name}"] = joined(grad, ranks) if tensor.dim() == 3 else total(grad, ranks)
    for name, result in results.items():
        assert bounds[name].excess(result) <= 1, name


def check_messages(ranks: DeviceMesh, gated: bool) -> None:
    """Bytes per rank, as `affine.py` counts them, whatever T is."""
    batch, width = 2, 3
    for length in (4, 400):
        x = torch.randn(batch, length, width, requires_grad=True)
        decay = torch.rand(batch, length, width) if gated else torch.rand(width)
        with counted() as calls:
            h, _ = distributed.linear_scan(x, decay.requires_grad_(), group=ranks)
            h.sum().backward()
        numbers = [(batch * width if gated else width) + 2 * batch * width, 2 * batch * width]
        assert calls == [("all_gather", 4 * count) for count in numbers]


def check_second_derivatives(ranks: DeviceMesh, gated: bool, pairs: bool) -> None:
    """Those of one process; with a slice that has no steps."""
    length = 5
    problem = linear_problem(2, length, 4, dtype=torch.float64, gated=gated, pairs=pairs)
    mine = slices(length, ranks.size(), "uneven")[ranks.get_local_rank()]
    weights = [torch.randn_like(t) for t in problem.tensors.values()]

    def second(run: Callable[..., Any], part: slice) -> list[Tensor]:
        def cut(tensor: Tensor) -> Tensor:
            return tensor[:, part] if tensor.dim() == 3 else tensor

        tensors = [cut(t).detach().requires_grad_() for t in problem.tensors.values()]
        h, last = run(*tensors)
        first = torch.autograd.grad((h * h * h * cut(problem["grad_h"])).sum(), tensors, create_graph=True)
        again = sum((cut(w).conj() * g).real.sum() for w, g in zip(weights, first, strict=True))
        again = again + 0 * last.sum()
        return list(torch.autograd.grad(again, tensors))

    alone = second(cofm.linear_scan, slice(None))
    together = second(partial(distributed.linear_scan, group=ranks), mine)
    for tensor, one, share in zip(problem.tensors.values(), alone, together, strict=True):
        found = joined(share, ranks) if tensor.dim() == 3 else total(share, ranks)
        torch.testing.assert_close(found, one)
