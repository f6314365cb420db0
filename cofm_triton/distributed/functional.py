"""The recurrences as functions of sequences that no rank holds: every rank has a slice of time.

They are called like those of `cofm_triton`, on all ranks of a group at once. What is said here holds for all of them.

- Slices lie in the order of the ranks. They need not be equally long, and may have no steps.
- Parameters (decay, rate, weight, ...) are the same on all ranks. h0 is the state before the first step of the whole
  sequence: that of the rank with the first step counts, others may leave it out.
- h are the states of the slice, h_last is the state after the last step of the whole sequence, on all ranks.
- Gradients are those of the sum of all ranks' losses. Each rank has its share of those of parameters, h0 included, as
  in data parallelism: their sum over ranks is the gradient, which DDP, FSDP2 or `all_reduce` form.
- All ranks run the backward pass: one whose loss depends on no output adds `0 * h.sum()` to it.
- There are no `resets` and no `seq_starts`. Where a decay is 0, `linear_scan` starts anew from zero.
- Arguments are checked on every rank alone, and nothing is sent to compare them. As with every collective, an error on
  one rank leaves the others waiting until the group's timeout, and B, D and dtypes must be the same everywhere.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from cofm_triton.cpu.guess import LINEAR_MARGIN, MARGIN, guess_steps
from cofm_triton.distributed.affine import apply_scan
from cofm_triton.distributed.handover import HANDOVERS, Recurrence, apply_recurrence
from cofm_triton.distributed.ranks import Group, Ranks, ranks_of
from cofm_triton.functional import _one_or_three_axes
from cofm_triton.ops.backends import resolve
from cofm_triton.ops.checks import (
    check_decay,
    check_logits,
    check_matrix,
    check_nonlinearity,
    check_per_channel,
    check_per_pair,
    check_precision,
    check_sequence,
    check_states,
    check_step,
)
from cofm_triton.ops.dense_rnn import dense_rnn_backward_op, dense_rnn_op
from cofm_triton.ops.derivatives import keeps
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.gated_rnn import gated_rnn_backward_op, gated_rnn_op, turned
from cofm_triton.ops.paired_rnn_scan import paired_rnn_scan_backward_op, paired_rnn_scan_op
from cofm_triton.ops.rnn_scan import rnn_scan_backward_op, rnn_scan_op
from cofm_triton.step.activations import properties
from cofm_triton.step.discretization import is_exact
from cofm_triton.step.gates import coefficients, gates_of
from cofm_triton.step.oscillation import effective_pair
from cofm_triton.step.parameterization import Parameterization
from cofm_triton.step.parameterization import parameterization as look_up
from cofm_triton.step.step_rate import step_rate
from cofm_triton.support.scalars import check_bool, check_choice

Handed = tuple[list[Tensor], list[Tensor | None], Tensor]


def linear_scan(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None = None,
    *,
    group: Group | Ranks = None,
    reverse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`cofm_triton.linear_scan` of a sequence whose steps lie on many ranks.

    One collective forward, one backward, each of 3 B D numbers a rank at most, whatever T is (`affine.py`). Every
    rank scans its slice twice. Differentiable in x, decay and h0, through both results, to any order.

    Args:
        x: (B, T, D), this rank's slice of the input; T may differ between ranks, and be 0.
        decay: (D,), the same on all ranks, or gates of this slice that broadcast to (B, T, D).
        h0: (B, D), see above.
        group: the ranks: a process group, one dimension of a `DeviceMesh`, or None for the default group.
        reverse: run from the last step of the last rank down to the first of the first; h0 is then that of the last.
        backend: as in `cofm_triton.linear_scan`, but for "reference".

    Returns:
        h: (B, T, D), the states of this slice, in x's dtype.
        h_last: (B, D), the state after all slices, on all ranks; in h0's dtype (x's when h0 is None).

    Raises:
        TypeError: an argument is no tensor or no group, or has a dtype that is not accepted.
        ValueError: a shape, device, value, group or backend is not accepted.

    Example:
        >>> import torch
        >>> import torch.distributed as dist
        >>> dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
        >>> h, h_last = linear_scan(torch.ones(1, 3, 1), torch.tensor([0.5]))
        >>> h.flatten().tolist(), h_last.tolist()
        ([1.0, 1.5, 1.75], [[1.75]])
        >>> dist.destroy_process_group()

    Source: the associativity of affine maps, arXiv 1709.04057, section 2, over processes in place of threads.
    """
    check_sequence("x", x, allow_complex=True)
    check_decay("decay", decay, x)
    reverse = check_bool("reverse", reverse)
    ranks, start = _beginning(group, reverse, x, h0)
    h, last = apply_scan(x, _one_or_three_axes(decay, x), start, ranks, reverse, _resolved(backend, x))
    return h, last.to(x.dtype if h0 is None else h0.dtype)


def gated_rnn(
    x: Tensor,
    rate: Tensor,
    rate_logit: Tensor,
    input_logit: Tensor | None = None,
    h0: Tensor | None = None,
    *,
    gates: str = "rg_lru",
    angle: Tensor | None = None,
    group: Group | Ranks = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`cofm_triton.gated_rnn` of a sequence whose steps lie on many ranks.

    Without `angle` as `linear_scan` with the decays in memory. Pairs that turn have no summary of one number a channel:
    with `angle` states go through the ranks in turn, a chunk of the batch after the other (`handover.py`).
    Differentiable to any order: second derivatives are those of summaries with a matrix for every pair (`affine.py`).

    Args:
        x: (B, T, D), and the logits likewise: this rank's slice.
        rate: (D,).
        rate_logit: like x.
        input_logit: like x, or None.
        h0: (B, D).
        gates: as in `cofm_triton.gated_rnn`.
        angle: (D // 2,), or None.
        group: as in `linear_scan`.
        backend: likewise.

    Returns:
        `(h, h_last)` as `linear_scan`.

    Raises:
        TypeError: as in `linear_scan`.
        ValueError: likewise.
    """
    check_sequence("x", x, allow_complex=False)
    check_per_channel("rate", rate, x)
    row = gates_of(gates)
    check_logits("rate_logit", rate_logit, x)
    if row.has_input_logit:
        check_logits("input_logit", input_logit, x)
    elif input_logit is not None:
        raise ValueError(f"input_logit must be None with gates={gates!r}, whose input has no gate")
    if angle is not None:
        check_per_pair("angle", angle, x)
    ranks, start = _beginning(group, False, x, h0)
    chosen, state = _resolved(backend, x), state_dtype(x.dtype)
    rate = rate.to(state)
    if angle is None:
        q = None if input_logit is None else input_logit.to(state)
        decay, gain = coefficients(row, rate, rate_logit.to(state), q)
        h, last = apply_scan(gain * x.to(state), decay, start, ranks, False, chosen)
    else:
        steps = (x, rate_logit) if input_logit is None else (x, rate_logit, input_logit)
        recurrence = Recurrence(
            partial(_gated, gates, chosen),
            partial(_gated_adjoint, gates, chosen),
            None,
            composed=partial(_gated_again, gates, chosen),
        )
        h, last = apply_recurrence(recurrence, ranks, "in turn", start, steps, (rate, angle.to(state)))
    return h.to(x.dtype), last.to(x.dtype if h0 is None else h0.dtype)


def rnn_scan(
    x: Tensor,
    rate: Tensor,
    h0: Tensor | None = None,
    *,
    frequency: Tensor | None = None,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    parameterization: str | Parameterization = "direct",
    discretization: str = "euler",
    handover: str = "auto",
    group: Group | Ranks = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`cofm_triton.rnn_scan` of a sequence whose steps lie on many ranks, with the bits of one process.

    Differentiable in x, rate, frequency and h0, through both results, once. On the CPU gradients of x and h0 have the
    bits of one process, too; on a GPU where one process runs their adjoint step by step (docs/backends.md). Those of
    rate and frequency have its bounds: they are sums over all steps, of which every rank returns its share.

    Args:
        x: (B, T, D), this rank's slice.
        rate: (D,), or (D // 2,) with `frequency`.
        h0: (B, D).
        frequency: as in `cofm_triton.rnn_scan`, and so are the next four.
        dt: time step.
        nonlinearity: act.
        parameterization: f.
        discretization: "euler" or "exact".
        handover: how a rank comes by its first state. "in turn": from the rank before, one chunk of the batch after the
            other. "guessed": by the last steps of the rank before from zero, which is checked. "auto": in turn with 4
            sequences a rank or more; else guessed where the recurrence forgets in a fourth of the shortest slice
            (`handover.py`). All give the same bits.
        group: as in `linear_scan`.
        backend: likewise.

    Returns:
        `(h, h_last)` as `linear_scan`.

    Raises:
        TypeError: as in `linear_scan`.
        ValueError: likewise.
    """
    check_sequence("x", x, allow_complex=False)
    if frequency is None:
        check_per_channel("rate", rate, x)
    else:
        check_per_pair("rate", rate, x)
        check_per_pair("frequency", frequency, x)
    dt = check_step(dt)
    check_nonlinearity(nonlinearity)
    check_choice("handover", handover, HANDOVERS)
    kind = look_up(parameterization)
    is_exact(discretization)
    ranks, start = _beginning(group, False, x, h0)
    chosen, w = _resolved(backend, x), rate.to(state_dtype(x.dtype))
    if frequency is None:
        kinds = (kind.name, discretization)
        factors = 1 - dt * step_rate(w.detach(), dt, *kinds)
        forward = partial(_rnn, dt, nonlinearity, chosen, kinds)
        adjoint = partial(_rnn_adjoint, dt, nonlinearity, chosen, kinds)
        parameters: tuple[Tensor, ...] = (w,)
    else:
        parameters = effective_pair(kind.rate(w), frequency.to(w.dtype), dt, discretization)
        alpha, omega = (parameter.detach() for parameter in parameters)
        factors = torch.hypot(1 - dt * alpha, dt * omega)
        forward = partial(_pairs, dt, nonlinearity, chosen)
        adjoint = partial(_pairs_adjoint, dt, nonlinearity, chosen)
    recurrence = Recurrence(forward, adjoint, _guess(nonlinearity, factors))
    h, last = apply_recurrence(recurrence, ranks, handover, start, (x,), parameters)
    return h, last.to(x.dtype if h0 is None else h0.dtype)


def dense_rnn(
    x: Tensor,
    weight: Tensor,
    h0: Tensor | None = None,
    *,
    dt: float = 1.0,
    nonlinearity: str = "hardtanh",
    precision: str = "ieee",
    group: Group | Ranks = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """`cofm_triton.dense_rnn` of a sequence whose steps lie on many ranks, with the bits of one process.

    States go through the ranks in turn (`handover.py`): a batch of one sequence takes as long as on one rank, what is
    shared is memory. So does any batch with backend "torch", whose matrix products have other bits in smaller batches.
    Differentiable once, with bits as `rnn_scan` says.

    Args:
        x: (B, T, D), this rank's slice.
        weight: (D, D).
        h0: (B, D).
        dt: as in `cofm_triton.dense_rnn`, and so are the next two.
        nonlinearity: act.
        precision: of products.
        group: as in `linear_scan`.
        backend: likewise.

    Returns:
        `(h, h_last)` as `linear_scan`.

    Raises:
        TypeError: as in `linear_scan`.
        ValueError: likewise.
    """
    check_sequence("x", x, allow_complex=False)
    check_matrix("weight", weight, x)
    dt = check_step(dt)
    check_nonlinearity(nonlinearity)
    check_precision(precision)
    ranks, start = _beginning(group, False, x, h0)
    chosen = _resolved(backend, x)
    forward = partial(_dense, dt, nonlinearity, precision, chosen, keeps(x, weight, h0))
    adjoint = partial(_dense_adjoint, dt, precision, chosen)
    recurrence = Recurrence(forward, adjoint, None, whole_batch=chosen == "torch")  # BLAS adds by the number of rows
    h, last = apply_recurrence(recurrence, ranks, "in turn", start, (x,), (weight,))
    return h, last.to(x.dtype if h0 is None else h0.dtype)


class Functions:
    """The same four functions, over some ranks: what layers call in place of `cofm_triton.functional`."""

    def __init__(self, ranks: Ranks) -> None:
        self.linear_scan = partial(linear_scan, group=ranks)
        self.gated_rnn = partial(gated_rnn, group=ranks)
        self.rnn_scan = partial(rnn_scan, group=ranks)
        self.dense_rnn = partial(dense_rnn, group=ranks)


def _beginning(group: Group | Ranks, reverse: bool, x: Tensor, h0: Tensor | None) -> tuple[Ranks, Tensor | None]:
    """Ranks in the order of time, and h0 where it counts: elsewhere zeros, which have a gradient of zeros."""
    ranks = ranks_of(group).turned(reverse)
    check_states("h0", h0, x, None)
    if h0 is None or ranks.index == 0:
        return ranks, h0
    return ranks, h0.masked_fill(torch.ones((), dtype=torch.bool, device=h0.device), 0)


def _resolved(backend: str | None, x: Tensor) -> str:
    chosen = resolve(backend, x.device)
    if chosen == "reference":
        raise ValueError("backend='reference' runs in one process: take cofm_triton's function of the same name")
    return chosen


def _guess(nonlinearity: str, factors: Tensor) -> int | None:
    """W, as on the CPU (`cpu/jit/rnn_scan.py`): relu may hold its state, and has none."""
    act = properties(nonlinearity)
    return guess_steps(factors.cpu().numpy(), LINEAR_MARGIN if act.is_linear else MARGIN) if act.is_restoring else None


def _rnn(
    dt: float, nonlinearity: str, backend: str, kinds: tuple[str, str], steps: Any, parameters: Any, start: Tensor
) -> tuple[Tensor, Tensor]:
    return rnn_scan_op(*steps, *parameters, start, None, None, dt, nonlinearity, "h0", backend, "auto", *kinds)


def _rnn_adjoint(
    dt: float, nonlinearity: str, backend: str, kinds: tuple[str, str], grad_h: Tensor, grad_last: Tensor | None,
    steps: Any, parameters: Any, h: Tensor, start: Tensor,
) -> Handed:  # fmt: skip
    grad_x, grad_w, grad_start = rnn_scan_backward_op(
        grad_h, grad_last, *steps, *parameters, h, start, None, None, dt, nonlinearity, "h0", backend, *kinds
    )
    return [grad_x], [grad_w], grad_start


def _pairs(
    dt: float, nonlinearity: str, backend: str, steps: Any, parameters: Any, start: Tensor
) -> tuple[Tensor, Tensor]:
    return paired_rnn_scan_op(*steps, *parameters, start, None, None, dt, nonlinearity, "h0", backend, "auto")


def _pairs_adjoint(
    dt: float, nonlinearity: str, backend: str, grad_h: Tensor, grad_last: Tensor | None, steps: Any, parameters: Any,
    h: Tensor, start: Tensor,
) -> Handed:  # fmt: skip
    grad_x, *grads, grad_start = paired_rnn_scan_backward_op(
        grad_h, grad_last, *steps, *parameters, h, start, None, None, dt, nonlinearity, "h0", backend
    )
    return [grad_x], grads, grad_start


def _gated(gates: str, backend: str, steps: Any, parameters: Any, start: Tensor) -> tuple[Tensor, Tensor]:
    x, p, *q = steps
    return gated_rnn_op(x, p, q[0] if q else None, *parameters, start, None, None, gates, "h0", backend)


def _gated_adjoint(
    gates: str, backend: str, grad_h: Tensor, grad_last: Tensor | None, steps: Any, parameters: Any, h: Tensor,
    start: Tensor,
) -> Handed:  # fmt: skip
    x, p, *q = steps
    grad_x, grad_p, grad_q, *grads, grad_start = gated_rnn_backward_op(
        grad_h, grad_last, x, p, q[0] if q else None, *parameters, h, start, None, None, gates, "h0", backend
    )
    return [grad_x, grad_p, grad_q][: len(steps)], grads, grad_start


def _gated_again(
    gates: str, backend: str, ranks: Ranks, h0: Tensor, steps: Any, parameters: Any
) -> tuple[Tensor, Tensor]:
    """By summaries, with all matrices in memory: what second derivatives are taken of."""
    (x, p, *q), (rate, angle) = steps, parameters
    state = rate.dtype
    decay, gain = coefficients(gates_of(gates), rate, p.to(state), q[0].to(state) if q else None)
    h, last = apply_scan(gain * x.to(state), turned(decay, angle), h0, ranks, False, backend)
    return h.to(x.dtype), last


def _dense(
    dt: float, nonlinearity: str, precision: str, backend: str, keep: bool, steps: Any, parameters: Any, start: Tensor
) -> tuple[Tensor, ...]:
    """Slopes too: formed again by another product, they have other bits."""
    return dense_rnn_op(*steps, *parameters, start, None, "h0", dt, nonlinearity, precision, backend, keep)


def _dense_adjoint(
    dt: float, precision: str, backend: str, grad_h: Tensor, grad_last: Tensor | None, steps: Any, parameters: Any,
    h: Tensor, start: Tensor,
) -> Handed:  # fmt: skip
    (_x, slope), (weight,) = steps, parameters
    grad_x, grad_weight, grad_start = dense_rnn_backward_op(
        grad_h, grad_last, slope, weight, h, start, None, "h0", dt, precision, backend
    )
    return [grad_x], [grad_weight], grad_start
