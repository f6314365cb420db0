"""Cases that `rank_pool.py` runs on every rank: each computes the right answer from all slices by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import scan_cases
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

import cofm_triton as cofm
from bench import ranks as bench_ranks
from bench.ranks import counted
from cofm_triton import distributed
from cofm_triton.cpu.guess import guess_steps
from cofm_triton.layers.residual import ResidualStack
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN


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


def by_itself(ranks: DeviceMesh, run: Callable[[], Any]) -> Any:
    """What every rank computes by itself; the first one before the others, which then find its compiled code."""
    if ranks.get_local_rank() == 0:
        result = run()
    dist.barrier(ranks.get_group())
    return result if ranks.get_local_rank() == 0 else run()


def check_problem(
    ranks: DeviceMesh,
    draw: str,
    shape: tuple[int, int, int],
    cut: str,
    messages: tuple[set[str], set[str]],
    bits: tuple[str, ...] = (),
    scale: float = 1.0,
    handover: str | None = None,
    backend: str = "cpu",
    **options: Any,
) -> None:
    """Within the bounds of one process, or with its bits, all gradients included, and by these messages.

    Args:
        ranks: they have the slices.
        draw: a function of `scan_cases`, which draws the problem.
        shape: of the problem.
        cut: see `slices`.
        messages: names of what is called forward and backward.
        bits: which results have the bits of one process.
        scale: of the input.
        handover: option of the function.
        backend: of both.
        options: of the problem.
    """
    problem = getattr(scan_cases, draw)(*shape, **options)
    problem = problem.with_(x=scale * problem.x)
    exact = by_itself(ranks, lambda: problem.run(backend))
    rank, given = ranks.get_local_rank(), {k: v for k, v in problem.options.items() if v is not None}
    given.pop("reset_to", None)  # no resets over ranks
    mine = slices(shape[1], ranks.size(), cut)[rank]
    tensors = {
        name: (t[:, mine] if t.dim() == 3 else t).detach().requires_grad_() for name, t in problem.tensors.items()
    }
    run = getattr(distributed, problem.operator.name.removeprefix("paired_"))
    given |= {} if handover is None else {"handover": handover}
    with counted() as calls:
        h, last = run(**tensors, **given, group=ranks, backend=backend)
    assert {name for name, _ in calls} <= messages[0]
    with counted() as calls:  # the derivative by what all ranks have comes from one of them
        pulls = problem["grad_h"][:, mine], problem["grad_last"] * (rank == 1)
        grads = torch.autograd.grad((h, last), list(tensors.values()), pulls)
    assert {name for name, _ in calls} <= messages[1]
    results = {"h": joined(h, ranks), "h_last": last}
    for (name, tensor), grad in zip(tensors.items(), grads, strict=True):
        results[f"grad_{name}"] = joined(grad, ranks) if tensor.dim() == 3 else total(grad, ranks)
    bounds = problem.bounds()
    for name, result in results.items():
        if name in bits:
            assert torch.equal(result, exact[name]), name
        else:
            assert bounds[name].excess(result) <= problem.slack(backend), name


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


def check_cuts(ranks: DeviceMesh) -> None:
    """A decay of zero is what a reset to zero is, wherever slices end."""
    x, decay, begins = torch.randn(2, 9, 3), torch.rand(3), torch.rand(2, 9) < 0.3
    mine = slices(9, ranks.size(), "even")[ranks.get_local_rank()]
    exact, last = cofm.linear_scan(x, decay, resets=begins, reset_to="zero")
    h, found = distributed.linear_scan(x[:, mine], decay * ~begins[:, mine, None], group=ranks)
    torch.testing.assert_close((joined(h, ranks), found), (exact, last))


def check_third_derivatives(ranks: DeviceMesh, draw: str, **options: Any) -> None:
    """Those of one process; with a slice that has no steps."""
    length = 5
    problem = getattr(scan_cases, draw)(2, length, 4, dtype=torch.float64, **options)
    name = problem.operator.name.removeprefix("paired_")
    mine = slices(length, ranks.size(), "uneven")[ranks.get_local_rank()]
    weights = [torch.randn_like(t) for t in problem.tensors.values()]

    def third(run: Callable[..., Any], part: slice) -> list[Tensor]:
        def cut(tensor: Tensor) -> Tensor:
            return tensor[:, part] if tensor.dim() == 3 else tensor

        tensors = [cut(t).detach().requires_grad_() for t in problem.tensors.values()]
        h, last = run(**dict(zip(problem.tensors, tensors, strict=True)))
        loss = (h**4 * cut(problem["grad_h"])).sum() + (last**4 * problem["grad_last"]).sum() / (
            1 if run is getattr(cofm, name) else ranks.size()
        )
        for _ in range(2):
            grads = torch.autograd.grad(loss, tensors, create_graph=True)
            loss = sum((cut(w).conj() * g).real.sum() for w, g in zip(weights, grads, strict=True))
        return list(torch.autograd.grad(loss, tensors))

    alone = third(getattr(cofm, name), slice(None))
    together = third(partial(getattr(distributed, name), group=ranks), mine)
    for tensor, one, share in zip(problem.tensors.values(), alone, together, strict=True):
        found = joined(share, ranks) if tensor.dim() == 3 else total(share, ranks)
        torch.testing.assert_close(found, one)


def check_once(ranks: DeviceMesh) -> None:
    """A second derivative is refused, also where PyTorch would have left it out: of a loss with a constant gradient."""
    x, rate = torch.randn(2, 5, 3, requires_grad=True), torch.rand(3, 3)
    for run, parameter in ((distributed.rnn_scan, rate[0]), (distributed.dense_rnn, rate)):
        with pytest.raises(RuntimeError, match="can be differentiated once: leave create_graph=True away"):
            torch.autograd.grad(run(x, parameter, group=ranks)[0].sum(), x, create_graph=True)


def check_rule(ranks: DeviceMesh) -> None:
    """Few long sequences that forget are guessed, in three collectives a pass; many, and relu's, go in turn."""
    count, rate = ranks.size(), torch.full((3,), 0.9, requires_grad=True)
    steps = 4 * cofm_guess(0.1)

    def messages(batch: int, length: int, **options: Any) -> list[str]:
        with counted() as calls:
            h, last = distributed.rnn_scan(torch.randn(batch, length, 3), rate, group=ranks, **options)
            (h.sum() + last.sum()).backward()
        return [name for name, _ in calls]

    guessed = ["all_gather"] * 3 + ["all_reduce"] + ["all_gather"] * 2
    assert messages(1, steps) == guessed and messages(4 * count - 1, steps) == guessed
    for name in messages(1, steps - 1)[1:] + messages(4 * count, steps) + messages(1, steps, nonlinearity="relu"):
        assert name in {"isend", "recv", "broadcast", "all_reduce"}


def cofm_guess(factor: float) -> int:
    """Steps of a guess for one factor of a step."""
    steps = guess_steps(torch.tensor([factor]).numpy())
    assert steps is not None
    return steps


def check_layer(ranks: DeviceMesh, cut: str, model: str, **options: Any) -> None:
    """Outputs, states and gradients of a model on slices are those of the model."""
    torch.manual_seed(1)
    made = {
        "layer": lambda: StableRNN(3, 5, batch_first=True, dtype=torch.float64, **options),
        "functional": lambda: RNNFunctional(3, 5, 2, nonlinearity="tanh").double(),
        "residual": lambda: ResidualStack(3, 4, num_layers=2, batch_first=True).double(),
    }[model]()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    mine = slices(9, ranks.size(), cut)[ranks.get_local_rank()]
    alone, together = made, distributed.shard_time(copy.deepcopy(made), ranks)
    by_itself(ranks, lambda: alone(x))
    for again in (together, copy.deepcopy(together)):
        check_same_model(ranks, alone, again, x, mine)
    assert alone.state_dict().keys() == together.state_dict().keys()


def check_same_model(ranks: DeviceMesh, alone: nn.Module, together: nn.Module, x: Tensor, mine: slice) -> None:
    whole, one = x.clone().requires_grad_(), x[:, mine].clone().requires_grad_()
    results, found = alone(whole), together(one)
    if isinstance(results, Tensor):
        results, found = (results,), (found,)
    weight = torch.randn_like(results[0])
    losses = (results[0] * weight).sum(), (found[0] * weight[:, mine]).sum()
    if len(results) > 1:
        torch.testing.assert_close(found[1], results[1])
        states = torch.randn_like(results[1])
        losses = losses[0] + (results[1] * states).sum(), losses[1] + (found[1] * states).sum() / ranks.size()
    torch.testing.assert_close(joined(found[0], ranks), results[0])
    ours, theirs = list(alone.parameters()), list(together.parameters())
    exact, shares = torch.autograd.grad(losses[0], [whole, *ours]), torch.autograd.grad(losses[1], [one, *theirs])
    torch.testing.assert_close(joined(shares[0], ranks), exact[0])
    for grad, share in zip(exact[1:], shares[1:], strict=True):
        torch.testing.assert_close(total(share, ranks), grad)


def check_costs(ranks: DeviceMesh) -> None:
    """Tables of the benchmark: what is sent does not grow with time."""
    length = 2048
    found = bench_ranks.measure(length, 1)
    for row in bench_ranks.ROWS:
        few, many = found[row.name, length // bench_ranks.SHORTER], found[row.name, length]
        if row.handover != "guessed":  # guesses on slices as short as these are wrong
            assert [(cost.messages, cost.sent) for cost in few] == [(cost.messages, cost.sent) for cost in many]
    messages = list(bench_ranks.message_table({1: found, 4: found}, length))
    assert "| `linear_scan` | 4 | 1 all_gather | 768 | 768 | 1 all_gather | 512 | 512 |" in messages
    assert len(list(bench_ranks.time_table({4: found}, length))) == 2 + 2 * len(bench_ranks.ROWS)
