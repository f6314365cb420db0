"""`cofm_triton::rnn_readout`: a recurrence with its encoder and its read-out, registration, derivatives, memory.

    h[t] = h[t-1] + dt * act_in(U x[t] + b - a h[t-1]),   h[-1] = 0,   y[t] = c^T act_out(h[t]) + d

for every unit, or for pairs of units (2k, 2k + 1), whose a is [[rate, -turn], [turn, rate]]: `turn` is given then, and
both have D / 2 numbers (`ops/paired_rnn_scan.py`).

States never reach memory but for those at the start of each chunk of about sqrt(T) steps, which a backward pass starts
its recomputation from. Where derivatives are themselves differentiated (`create_graph=True`, `torch.func`) or taken
forward, the same function runs as encoder, scan and read-out one after the other, `composed`, which PyTorch
differentiates to any order and which keeps all states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.ops.backends import implementation, lanes
from cofm_triton.ops.derivatives import directly, keeps, remember
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.linear_scan import apply_linear_scan
from cofm_triton.ops.pair_scan import pair_scan
from cofm_triton.ops.paired_rnn_scan import apply_paired_rnn_scan, linearize_pairs, rows_of_pairs, swap_pairs
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.rnn_scan import apply_rnn_scan, linearize
from cofm_triton.ops.shapes import fold_batch, holds, map_one_by_one, split_batch
from cofm_triton.step.activation import activation, activation_slope

# Tensors among the operator's arguments: x, weight, bias, rate, readout, offset, turn.
TENSORS = 7
# Inputs and outputs together that the fused path takes: each is a register per unit, and its gradient is another. A
# lane holds both units of a pair.
MAX_FEATURES = 16
MAX_FEATURES_OF_PAIRS = 8
# Chunks are whole blocks of the kernels' rows.
CHUNK_ROWS = 16
# The compiled CPU path has sequences for lanes: fewer than this leave most of a vector empty.
MIN_CPU_BATCH = 8
# Where tangents touch the root in `chunk_length`: up to 2**28 steps.
TANGENTS = (16, 64, 256, 1024, 4096, 16384)


class Backend(Protocol):
    """The module of a backend: both passes with B, T >= 1, all tensors in the state's dtype.

    Pairs have `turn`, and `rate` is their `pull`, see `rows_of_pairs`. `lanes` is the size of a warp.
    """

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, *,
        dt: float, act_in: str, act_out: str, chunk: int, keep: bool, turn: Tensor | None = None, lanes: int = 32,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`(y, states)`: y (B, T, p) without the offset, states (B, chunks or 0, D)."""

    def backward(
        self, grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor, *,
        dt: float, act_in: str, act_out: str, chunk: int, with_grad_x: bool, turn: Tensor | None = None,
        lanes: int = 32,
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
        """Gradients by x (None unless asked for), weight, bias, rate, readout and turn (None unless given)."""


if TYPE_CHECKING:  # every backend has this signature
    from cofm_triton.cpu.blocked import rnn_readout as _blocked
    from cofm_triton.cpu.jit import rnn_readout as _jit
    from cofm_triton.kernels import rnn_readout as _kernels

    _BACKENDS: list[Backend] = [_kernels, _jit, _blocked]


def backend_of(backend: str) -> Backend:
    """What computes on a resolved backend."""
    module: Backend = implementation(backend, "rnn_readout")
    return module


def is_fused(
    batch: int, inputs: int, outputs: int, backend: str, *, paired: bool = False, double: bool = False
) -> bool:
    """Whether the operator pays: few features, and sequences enough for the lanes of a processor.

    Args:
        batch: B.
        inputs: d.
        outputs: p.
        backend: a resolved one.
        paired: whether units are pairs.
        double: whether states are float64: with pairs, GPUs with warps of 64 have too few scalar registers.

    Example:
        >>> is_fused(64, 1, 1, "numba"), is_fused(2, 1, 1, "numba"), is_fused(64, 100, 1, "numba")
        (True, False, False)
    """
    few = inputs + outputs <= (MAX_FEATURES_OF_PAIRS if paired else MAX_FEATURES)
    fits = few and not (paired and double and backend == "triton")
    return fits and backend != "reference" and not (backend == "numba" and holds(batch < MIN_CPU_BATCH))


def chunk_length(length: int) -> int:
    """Steps between kept states: sqrt(T) and at most a quarter more, in whole blocks.

    The lowest of its tangents a / 2 + T / (2 a) stands for the root: sums, quotients and minima of whole numbers are
    what a graph can say about a length that it does not know, and save.

    Example:
        >>> chunk_length(16384), chunk_length(100)
        (160, 16)
    """
    root = length
    for a in TANGENTS:
        root = torch.sym_min(root, a // 2 + length // (2 * a))
    return CHUNK_ROWS * torch.sym_max(1, -(-root // CHUNK_ROWS))


def chunk_count(length: int) -> int:
    """Kept states of a sequence, at least two: of a size that may be 1 a graph would have to know whether it is.

    Example:
        >>> chunk_count(16384), chunk_count(100), chunk_count(1)
        (103, 7, 2)
    """
    return torch.sym_max(2, -(-length // chunk_length(length)))


def composed(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor, turn: Tensor | None,
    dt: float, act_in: str, act_out: str, backend: str,
) -> Tensor:  # fmt: skip
    """The same y, (B, T, p) in x's dtype, by operators that are differentiable to any order."""
    state = state_dtype(x.dtype)
    e = F.linear(x.to(state), weight.to(state), bias.to(state))
    if turn is None:
        h, _ = apply_rnn_scan(e, rate, None, None, dt, act_in, backend)
    else:
        h, _ = apply_paired_rnn_scan(e, rate, turn, None, None, dt, act_in, backend)
    return F.linear(activation(act_out)(h), readout.to(state), offset.to(state)).to(x.dtype)


def apply_rnn_readout(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
    dt: float, act_in: str, act_out: str, backend: str, turn: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """`y` for checked arguments, rate and turn in the state's dtype, backend resolved."""
    tensors = (x, weight, bias, rate, readout, offset, turn)
    call = rnn_readout_op if directly(*tensors) else _RnnReadout.apply
    return call(*tensors, dt, act_in, act_out, backend, keeps(*tensors))[0]


def rnn_readout(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor, turn: Tensor | None,
    dt: float, act_in: str, act_out: str, backend: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The forward pass: y (B, T, p) in x's dtype, and kept states (B, chunks or 0, D) in the state's."""
    state = state_dtype(x.dtype)
    batch, length, inputs = x.shape
    kept = _kept(batch, length, len(bias), keep)
    if batch == 0 or length == 0:
        return x.new_empty(batch, length, len(offset)), x.new_empty(kept, dtype=state)
    kind = dict(paired=turn is not None, double=state == torch.float64)
    # A graph for every batch has got one of few.
    if not (keep or is_fused(batch, inputs, len(offset), backend, **kind)):
        y = composed(x, weight, bias, rate, readout, offset, turn, dt, act_in, act_out, backend)
        return y, x.new_empty(kept, dtype=state)
    rate, turn = (rate, None) if turn is None else rows_of_pairs(rate, turn)
    y, states = backend_of(backend).forward(
        *(tensor.to(state).contiguous() for tensor in (x, weight, bias, rate, readout)), turn=turn,
        dt=dt, act_in=act_in, act_out=act_out, chunk=chunk_length(length), keep=keep, lanes=lanes(x.device),
    )  # fmt: skip
    if states.shape[1] < kept[1]:
        states = F.pad(states, (0, 0, 0, kept[1] - states.shape[1]))
    return y.add_(offset.to(state)).to(x.dtype), states


def _kept(batch: int, length: int, width: int, keep: bool) -> tuple[int, int, int]:
    """Shape of the kept states."""
    return batch, chunk_count(length) if keep else 0, width


def _rnn_readout_fake(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor, turn: Tensor | None,
    dt: float, act_in: str, act_out: str, backend: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, length, _ = x.shape
    states = x.new_empty(_kept(batch, length, bias.shape[0], keep), dtype=state_dtype(x.dtype))
    return x.new_empty(batch, length, offset.shape[0]), states


def rnn_readout_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, turn: Tensor | None,
    states: Tensor, dt: float, act_in: str, act_out: str, backend: str, with_grad_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x (empty unless asked for), weight, bias, rate, readout, offset and turn (empty where there is
    none), in the state's dtype.
    """
    state = state_dtype(x.dtype)
    pull = grad_y.to(state).contiguous()
    grad_offset = pull.sum((0, 1))
    no_x, no_turn = (x.new_empty(0, dtype=state) for _ in range(2))  # results share no memory
    if pull.numel() == 0:
        nothing = [torch.zeros_like(tensor, dtype=state) for tensor in (x, weight, bias, rate, readout)]
        by_turn = no_turn if turn is None else torch.zeros_like(turn)
        grad_x, by_weight, by_bias, by_rate, by_readout = nothing
        return grad_x if with_grad_x else no_x, by_weight, by_bias, by_rate, by_readout, grad_offset, by_turn
    pull_row, turn_row = (rate, None) if turn is None else rows_of_pairs(rate, turn)
    tensors = [tensor.to(state).contiguous() for tensor in (x, weight, bias, pull_row, readout)]
    chunk = chunk_length(x.shape[1])
    starts = states[:, : -(-x.shape[1] // chunk)].contiguous()
    wide, encoder, shift, damping, decoder = tensors
    by_x, by_weight, by_bias, by_rate, by_readout, by_row = backend_of(backend).backward(
        pull, wide, encoder, shift, damping, decoder, starts, turn=turn_row,
        dt=dt, act_in=act_in, act_out=act_out, chunk=chunk, with_grad_x=with_grad_x, lanes=lanes(x.device),
    )  # fmt: skip
    by_turn = no_turn
    if by_row is not None:
        even, odd = by_row.unflatten(0, (-1, 2)).unbind(1)
        by_rate, by_turn = by_rate.unflatten(0, (-1, 2)).sum(1), even - odd
    by_x = no_x if by_x is None else by_x
    return by_x, by_weight, by_bias, by_rate, by_readout, grad_offset, by_turn


def _rnn_readout_backward_fake(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, turn: Tensor | None,
    states: Tensor, dt: float, act_in: str, act_out: str, backend: str, with_grad_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    state = state_dtype(x.dtype)
    like = [tensor.new_empty(tensor.shape, dtype=state) for tensor in (weight, bias, rate, readout)]
    grad_x = x.new_empty(x.shape if with_grad_x else (0,), dtype=state)
    grad_turn = x.new_empty((0,) if turn is None else turn.shape, dtype=state)
    return grad_x, like[0], like[1], like[2], like[3], x.new_empty(readout.shape[0], dtype=state), grad_turn


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    remember(ctx, *inputs[:TENSORS], output[1])
    ctx.options = inputs[TENSORS:-1]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, _grad_states: None) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    nothing = (None,) * (TENSORS + 5)
    if grad_y is None:
        return nothing
    x, weight, bias, rate, readout, _, turn = tensors
    if torch.is_grad_enabled() or states.shape[1] == 0:
        given = tensors if turn is not None else tensors[:-1]
        missing = () if turn is not None else (None,)
        grads = torch.func.vjp(lambda *inputs: composed(*inputs, *missing, *ctx.options), *given)[1](grad_y)
        grads = (*grads, *missing)
    else:
        with_grad_x = ctx.needs_input_grad[0]
        grads = rnn_readout_backward_op(grad_y, x, weight, bias, rate, readout, turn, states, *ctx.options, with_grad_x)
        grads = (grads[0] if with_grad_x else None, *grads[1:-1], None if turn is None else grads[-1])
    cast = (None if grad is None else grad.to(tensor.dtype) for grad, tensor in zip(grads, tensors, strict=True))
    return *cast, *nothing[TENSORS:]


def _jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
    """Tangent: that of the scan between those of encoder and read-out; the kept states have none."""
    x, weight, bias, rate, readout, offset, turn, states = ctx.saved_tensors
    dt, act_in, act_out, backend = ctx.options
    state = states.dtype
    inputs, encoder, decoder = x.to(state), weight.to(state), readout.to(state)
    d_x, d_weight, d_bias, d_rate, d_readout, d_offset, d_turn = (
        torch.zeros_like(rate if tensor is None else tensor, dtype=state) if tangent is None else tangent.to(state)
        for tensor, tangent in zip((x, weight, bias, rate, readout, offset, turn), tangents, strict=False)
    )
    e = F.linear(inputs, encoder, bias.to(state))
    d_e = F.linear(d_x, encoder) + F.linear(inputs, d_weight, d_bias)
    if turn is None:
        h, _ = apply_rnn_scan(e, rate, None, None, dt, act_in, backend)
        before, slope, jacobian = linearize(e, rate, h, None, None, dt, act_in)
        d_h, _ = apply_linear_scan(slope * (d_e - d_rate * before), jacobian, None, None, False, backend)
    else:
        h, _ = apply_paired_rnn_scan(e, rate, turn, None, None, dt, act_in, backend)
        before, slope, jacobian = linearize_pairs(e, rate, turn, h, None, None, dt, act_in)
        d_pull, d_swap = rows_of_pairs(d_rate, d_turn)
        drive = d_e - d_pull * before + d_swap * swap_pairs(before)
        d_h, _ = pair_scan(jacobian, slope * drive, None, None, False)
    d_y = F.linear(activation_slope(act_out)(h) * d_h, decoder)
    d_y = d_y + F.linear(activation(act_out)(h), d_readout, d_offset)
    return d_y.to(x.dtype), torch.zeros_like(states)


def _rnn_readout_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    """A mapped axis joins the batch where only x has it; models that differ run one after the other."""
    if any(dim is not None for dim in in_dims[1:]):
        return map_one_by_one(rnn_readout_op, info, in_dims, arguments)
    x = fold_batch(arguments[0], in_dims[0], info.batch_size, False)
    y, states = rnn_readout_op(x, *arguments[1:])
    return (split_batch(y, info.batch_size, False), split_batch(states, info.batch_size, False)), (0, 0)


def _rnn_readout_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    """Every entry has gradients of its own, by all parameters: one after the other."""
    return map_one_by_one(rnn_readout_backward_op, info, in_dims, arguments)


rnn_readout_op = register(rnn_readout, fake=_rnn_readout_fake, vmap=_rnn_readout_vmap)
rnn_readout_backward_op = register(
    rnn_readout_backward, fake=_rnn_readout_backward_fake, vmap=_rnn_readout_backward_vmap
)
_RnnReadout = register_derivative(rnn_readout_op, _setup_context, _backward, _jvp)


def traffic(batch: int, length: int, inputs: int, outputs: int, itemsize: int) -> int:
    """Bytes that must move: forward reads x and writes y; backward, without a gradient by x, reads both."""
    return (inputs + outputs) * batch * length * itemsize


def memory(batch: int, length: int, inputs: int, width: int, itemsize: int) -> int:
    """Bytes that a training step keeps from forward to backward: x, and the states at the start of each chunk."""
    states = batch * chunk_count(length) * width * max(itemsize, 4)
    return batch * length * inputs * itemsize + states
