"""Recurrences that have no summary, over ranks: a state is handed on, or guessed and checked.

In turn: the batch goes through the ranks in chunks of sequences, as through a pipeline. Rank k runs a chunk when the
state in which rank k - 1 has left it arrives.

Guessed, where the recurrence contracts: every rank first runs the last W steps of its slice from zero; the state it
ends in is the next rank's guess. All ranks run at once, and compare, bit for bit, the states they started from with
those the ranks before them have ended in. A rank that started wrong runs again from the right state, until nothing is
wrong. The first rank is right from the beginning and each round puts at least one more right, so that the result is
that of one process, whatever was guessed. (The rank before has the W steps: it sends one state instead of them.)

The adjoint of such a recurrence forgets as fast, and goes the same way, from the last rank to the first. What it
reads are the numbers that one process reads, so that gradients of x and of h0 have its bits, too. Those of parameters
are sums over all steps. A rank returns its share, and whoever adds up the shares, DDP or `all_reduce`, adds in another
order than one process, whose own order depends on its threads. They are within the same bounds.

The rule: with at least 4 sequences per rank, in turn, since then three quarters of the time or more are shared.
Otherwise guessed, if the shortest slice has `MIN_PART` times the W steps that `cpu/guess.py` gives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from cofm_triton.cpu.allocator import empty
from cofm_triton.cpu.guess import MIN_PART
from cofm_triton.distributed.ranks import Ranks
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.shapes import no_gradient

HANDOVERS = ("auto", "in turn", "guessed")
SEQUENCES = 4  # per rank: a pipeline of n ranks and 4 n chunks waits (n - 1) / 4 n of the time

Steps = tuple[Tensor, ...]  # (B, T, D) each, of the slice or of a part of it


class Recurrence(NamedTuple):
    """What a rank computes by itself.

    Attributes:
        forward: from steps, parameters and the start state: h, the last state in the dtype of the start state, and what
            else of every step the adjoint reads.
        adjoint: from grad_h, grad_last (or None), steps (with what else was kept), parameters, h and the start state:
            gradients by the steps, by the parameters, and by the start state, in its dtype.
        guess: W, or None where states cannot be guessed.
        whole_batch: whether a sequence has other bits in another batch, which then runs in one chunk.
        composed: the same from ranks, h0, steps and parameters as functions with derivatives of every order; None where
            there is one derivative.
    """

    forward: Callable[[Steps, tuple[Any, ...], Tensor], tuple[Tensor, ...]]
    adjoint: Callable[
        [Tensor, Tensor | None, Steps, tuple[Any, ...], Tensor, Tensor],
        tuple[list[Tensor], list[Tensor | None], Tensor],
    ]
    guess: int | None
    whole_batch: bool = False
    composed: Callable[[Ranks, Tensor, Steps, tuple[Any, ...]], tuple[Tensor, Tensor]] | None = None


def apply_recurrence(
    recurrence: Recurrence, ranks: Ranks, handover: str, h0: Tensor | None, steps: Steps, parameters: tuple[Any, ...]
) -> tuple[Tensor, Tensor]:
    """`(h, last)`: h like x, and the state after all slices, (B, D) in the dtype of the state.

    Args:
        recurrence: what computes.
        ranks: in the order in which time passes.
        handover: one of `HANDOVERS`.
        h0: (B, D), of the first rank; None for zeros, and on the others.
        steps: x and what else has a row in every step.
        parameters: what is the same in every step, on all ranks.
    """
    x = steps[0]
    start = x.new_zeros((x.shape[0], x.shape[2]), dtype=state_dtype(x.dtype)) if h0 is None else h0
    warm_up = _warm_up(recurrence, ranks, handover, x)
    tensors = (*steps, *parameters)
    return _Handed.apply(recurrence, ranks, warm_up, len(steps), start.to(state_dtype(x.dtype)), *tensors)


def _warm_up(recurrence: Recurrence, ranks: Ranks, handover: str, x: Tensor) -> int | None:
    """W, or None for states in turn: the same on all ranks."""
    if handover == "in turn" or ranks.count == 1:
        return None
    if handover == "guessed":
        return x.shape[1] if recurrence.guess is None else recurrence.guess
    if recurrence.guess is None or x.shape[0] >= SEQUENCES * ranks.count:
        return None
    (lengths,) = ranks.gather(torch.tensor([x.shape[1]], device=x.device))
    return recurrence.guess if int(lengths.min()) >= MIN_PART * recurrence.guess else None


class _Handed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, recurrence: Recurrence, ranks: Ranks, warm_up: int | None, count: int, h0: Tensor, *tensors: Any
    ) -> tuple[Tensor, Tensor]:
        steps, parameters = tensors[:count], tensors[count:]

        def run(rows: slice, start: Tensor) -> Run:
            h, last, *kept = recurrence.forward(tuple(step[rows] for step in steps), parameters, start)
            return Run([h, start, *kept], [], last)

        def guess(warm_up: int) -> Tensor:
            return recurrence.forward(tuple(step[:, -warm_up:] for step in steps), parameters, torch.zeros_like(h0))[1]

        (h, start, *kept), _, last = _over(ranks, warm_up, recurrence.whole_batch, h0, guess, run)
        ctx.save_for_backward(h, start, h0, *parameters, *steps, *kept)
        ctx.options = (recurrence, ranks, warm_up, len(parameters), count)
        ctx.set_materialize_grads(False)
        return h, last

    @staticmethod
    def backward(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
        """Takes part in what ranks tell each other whatever the gradients are."""
        grads = (_differentiable if torch.is_grad_enabled() else _fused)(ctx, grad_h, grad_last)
        return None, None, None, None, *grads


def _fused(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> tuple[Any, ...]:
    """Gradients by h0, steps and parameters."""
    h, start, _h0, *tensors = ctx.saved_tensors
    recurrence, ranks, warm_up, constants, _count = ctx.options
    parameters, steps = tuple(tensors[:constants]), tensors[constants:]
    back, start = ranks.turned(), _as_kept(start, h, ranks)
    grad = no_gradient(h) if grad_h is None else grad_h
    given = back.sum(torch.zeros_like(start) if grad_last is None else grad_last)

    def run(rows: slice, arrived: Tensor) -> Run:
        part = tuple(step[rows] for step in steps)
        by_steps, sums, end = recurrence.adjoint(grad[rows], arrived, part, parameters, h[rows], start[rows])
        return Run([*by_steps, end], sums, end)

    def guess(warm_up: int) -> Tensor:
        part = tuple(step[:, :warm_up] for step in steps)
        return recurrence.adjoint(grad[:, :warm_up], None, part, parameters, h[:, :warm_up], start)[2]

    (*by_steps, grad_h0), by_parameters, _ = _over(back, warm_up, recurrence.whole_batch, given, guess, run)
    grad_h0 = grad_h0 if ranks.index == 0 else torch.zeros_like(grad_h0)
    return grad_h0, *by_steps, *by_parameters


def _differentiable(ctx: Any, grad_h: Tensor | None, grad_last: Tensor | None) -> list[Tensor | None]:
    """The same as functions of what was given."""
    h, _start, h0, *tensors = ctx.saved_tensors
    recurrence, ranks, _, constants, count = ctx.options
    given = [h0, *tensors[constants : constants + count], *tensors[:constants]]
    if recurrence.composed is None:
        raise RuntimeError(
            "nonlinear recurrences over ranks can be differentiated once: leave create_graph=True away, or run them in "
            "one process"
        )
    views = [tensor.view_as(tensor) for tensor in given]  # gradients stop at them, whatever the tensors were made of
    results = recurrence.composed(ranks, views[0], tuple(views[1 : 1 + count]), tuple(views[1 + count :]))
    tracked = [view for view in views if view.requires_grad]
    pulls = (no_gradient(h) if grad_h is None else grad_h, torch.zeros_like(h0) if grad_last is None else grad_last)
    grads = iter(torch.autograd.grad(results, tracked, pulls, create_graph=True, materialize_grads=True))
    return [next(grads) if view.requires_grad else None for view in views]


def _as_kept(start: Tensor, h: Tensor, ranks: Ranks) -> Tensor:
    """The state before a slice as the adjoint of one process reads it: from h, in 16 bits, unless it is h0."""
    if h.dtype == start.dtype:
        return start
    (lengths,) = ranks.gather(torch.tensor([h.shape[1]], device=h.device))
    return start.to(h.dtype).to(start.dtype) if lengths[: ranks.index].any() else start


class Run(NamedTuple):
    """What a rank has computed from a start state.

    Attributes:
        rows: tensors whose first axis is the batch.
        sums: over the batch and all steps; None for what has none.
        end: the state to hand on.
    """

    rows: list[Tensor]
    sums: list[Tensor | None]
    end: Tensor


def _over(
    ranks: Ranks, warm_up: int | None, whole_batch: bool, first: Tensor, guess: Callable[[int], Tensor],
    run: Callable[[slice, Tensor], Run],
) -> Run:  # fmt: skip
    """All rows from their right start states, and the state after the last rank."""
    if warm_up is None:
        return _in_turn(ranks, 1 if whole_batch else SEQUENCES * ranks.count, first, run)
    return _guessed(ranks, first, guess(warm_up), run)


def _in_turn(ranks: Ranks, chunks: int, first: Tensor, run: Callable[[slice, Tensor], Run]) -> Run:
    batch, is_last = first.shape[0], ranks.index == ranks.count - 1
    if batch == 0:
        return run(slice(None), first)
    size = -(-batch // chunks)
    whole: list[Tensor] = []
    sums_of, ends, sent = [], [], []
    for begin in range(0, batch, size):
        rows = slice(begin, begin + size)
        start = first[rows] if ranks.index == 0 else ranks.receive(first[rows])
        done = run(rows, start)
        if not is_last:
            sent.append(ranks.send(done.end))
        whole = whole or [_room(part, batch) for part in done.rows]
        for room, part in zip(whole, done.rows, strict=True):
            room[rows] = part  # one chunk after the other, so that its memory serves for the next
        sums_of.append(done.sums)
        ends.append(done.end)
    for work, _ in sent:
        work.wait()
    sums = [None if parts[0] is None else torch.stack(parts).sum(0) for parts in zip(*sums_of, strict=True)]
    return Run(whole, sums, ranks.from_last(torch.cat(ends)))


def _room(part: Tensor, batch: int) -> Tensor:
    """For the rows of the whole batch, on the CPU in memory that is used again."""
    shape = (batch, *part.shape[1:])
    return empty(shape, part.dtype) if part.device.type == "cpu" else part.new_empty(shape)


def _guessed(ranks: Ranks, first: Tensor, guess: Tensor, run: Callable[[slice, Tensor], Run]) -> Run:
    (guesses,) = ranks.gather(guess)
    before, everything = ranks.index - 1, slice(None)
    start = first if before < 0 else guesses[before]
    done = run(everything, start)
    while True:
        starts, ends = ranks.gather(start, done.end)
        wrong = [not _same_bits(one, other) for one, other in zip(starts[1:], ends[:-1], strict=True)]
        if not any(wrong):
            return done._replace(end=ends[-1])
        if before >= 0 and wrong[before]:
            start = ends[before]
            done = run(everything, start)


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Also of NaN, and not of zeros of different sign."""
    return torch.equal(one.view(torch.uint8), other.view(torch.uint8))
