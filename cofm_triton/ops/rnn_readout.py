"""`cofm_triton::rnn_readout`: a recurrence with its encoder and its read-out, registration, derivatives, memory.

    h[t] = h[t-1] + dt * act_in(U x[t] + b - a h[t-1]),   h[-1] = 0,   y[t] = c^T act_out(h[t]) + d

States never reach memory but for those at the start of each chunk of about sqrt(T) steps, which a backward pass starts
its recomputation from. Where derivatives are themselves differentiated (`create_graph=True`, `torch.func`) or taken
forward, the same function runs as encoder, scan and read-out one after the other, `composed`, which PyTorch
differentiates to any order and which keeps all states.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.ops.backends import implementation
from cofm_triton.ops.derivatives import directly, keeps, signed
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.linear_scan import apply_linear_scan
from cofm_triton.ops.registration import register, register_derivative
from cofm_triton.ops.rnn_scan import apply_rnn_scan, linearize
from cofm_triton.ops.shapes import fold_batch, holds, split_batch
from cofm_triton.step.activation import activation, activation_slope

# Tensors among the operator's arguments: x, weight, bias, rate, readout, offset.
TENSORS = 6
# Inputs and outputs together that the fused path takes: each is a register per unit, and its gradient is another.
MAX_FEATURES = 16
# Chunks are whole blocks of the kernels' rows.
CHUNK_ROWS = 16
# The compiled CPU path has sequences for lanes: fewer than this leave most of a vector empty.
MIN_CPU_BATCH = 8
# Where tangents touch the root in `chunk_length`: up to 2**28 steps.
TANGENTS = (16, 64, 256, 1024, 4096, 16384)


def is_fused(batch: int, inputs: int, outputs: int, backend: str) -> bool:
    """Whether the operator pays: few features, and sequences enough for the lanes of a processor.

    Args:
        batch: B.
        inputs: d.
        outputs: p.
        backend: a resolved one.

    Example:
        >>> is_fused(64, 1, 1, "numba"), is_fused(2, 1, 1, "numba"), is_fused(64, 100, 1, "numba")
        (True, False, False)
    """
    few = inputs + outputs <= MAX_FEATURES
    return few and backend != "reference" and not (backend == "numba" and holds(batch < MIN_CPU_BATCH))


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
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
    dt: float, act_in: str, act_out: str, backend: str,
) -> Tensor:  # fmt: skip
    """The same y, (B, T, p) in x's dtype, by operators that are differentiable to any order."""
    state = state_dtype(x.dtype)
    e = F.linear(x.to(state), weight.to(state), bias.to(state))
    h, _ = apply_rnn_scan(e, rate, None, None, dt, act_in, backend)
    return F.linear(activation(act_out)(h), readout.to(state), offset.to(state)).to(x.dtype)


def apply_rnn_readout(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
    dt: float, act_in: str, act_out: str, backend: str,
) -> Tensor:  # fmt: skip
    """`y` for checked arguments, rate in the state's dtype, backend resolved."""
    tensors = (x, weight, bias, rate, readout, offset)
    call = rnn_readout_op if directly(*tensors) else _RnnReadout.apply
    return call(*tensors, dt, act_in, act_out, backend, keeps(*tensors))[0]


def rnn_readout(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
    dt: float, act_in: str, act_out: str, backend: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The forward pass: y (B, T, p) in x's dtype, and kept states (B, chunks or 0, D) in the state's."""
    state = state_dtype(x.dtype)
    batch, length, inputs = x.shape
    kept = _kept(batch, length, len(rate), keep)
    if batch == 0 or length == 0:
        return x.new_empty(batch, length, len(offset)), x.new_empty(kept, dtype=state)
    if not (keep or is_fused(batch, inputs, len(offset), backend)):  # a graph for every batch has got one of few
        y = composed(x, weight, bias, rate, readout, offset, dt, act_in, act_out, backend)
        return y, x.new_empty(kept, dtype=state)
    y, states = implementation(backend, "rnn_readout").forward(
        *(tensor.to(state).contiguous() for tensor in (x, weight, bias, rate, readout)),
        dt=dt, act_in=act_in, act_out=act_out, chunk=chunk_length(length), keep=keep,
    )  # fmt: skip
    if states.shape[1] < kept[1]:
        states = F.pad(states, (0, 0, 0, kept[1] - states.shape[1]))
    return y.add_(offset.to(state)).to(x.dtype), states


def _kept(batch: int, length: int, width: int, keep: bool) -> tuple[int, int, int]:
    """Shape of the kept states."""
    return batch, chunk_count(length) if keep else 0, width


def _rnn_readout_fake(
    x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, offset: Tensor,
    dt: float, act_in: str, act_out: str, backend: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    batch, length, _ = x.shape
    states = x.new_empty(_kept(batch, length, rate.shape[0], keep), dtype=state_dtype(x.dtype))
    return x.new_empty(batch, length, offset.shape[0]), states


def rnn_readout_backward(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor,
    dt: float, act_in: str, act_out: str, backend: str, with_grad_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients by x (empty unless asked for), weight, bias, rate, readout and offset, in the state's dtype."""
    state = state_dtype(x.dtype)
    pull = grad_y.to(state).contiguous()
    tensors = [tensor.to(state).contiguous() for tensor in (x, weight, bias, rate, readout)]
    grad_offset = pull.sum((0, 1))
    if pull.numel() == 0:
        nothing = [torch.zeros_like(tensor) for tensor in tensors]
        grad_x = nothing[0] if with_grad_x else x.new_empty(0, dtype=state)
        return grad_x, nothing[1], nothing[2], nothing[3], nothing[4], grad_offset
    chunk = chunk_length(x.shape[1])
    starts = states[:, : -(-x.shape[1] // chunk)].contiguous()
    by_x, by_weight, by_bias, by_rate, by_readout = implementation(backend, "rnn_readout").backward(
        pull, *tensors, starts, dt=dt, act_in=act_in, act_out=act_out, chunk=chunk, with_grad_x=with_grad_x
    )
    by_x = x.new_empty(0, dtype=state) if by_x is None else by_x
    return by_x, by_weight, by_bias, by_rate, by_readout, grad_offset


def _rnn_readout_backward_fake(
    grad_y: Tensor, x: Tensor, weight: Tensor, bias: Tensor, rate: Tensor, readout: Tensor, states: Tensor,
    dt: float, act_in: str, act_out: str, backend: str, with_grad_x: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    state = state_dtype(x.dtype)
    like = [tensor.new_empty(tensor.shape, dtype=state) for tensor in (weight, bias, rate, readout)]
    grad_x = x.new_empty(x.shape if with_grad_x else (0,), dtype=state)
    return grad_x, like[0], like[1], like[2], like[3], x.new_empty(readout.shape[0], dtype=state)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:TENSORS], output[1])
    ctx.save_for_forward(*inputs[:TENSORS], output[1])
    ctx.options = inputs[TENSORS:-1]
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad_y: Tensor | None, _grad_states: None) -> tuple[Tensor | None, ...]:
    *tensors, states = ctx.saved_tensors
    nothing = (None,) * (TENSORS + 5)
    if grad_y is None:
        return nothing
    x, weight, bias, rate, readout, _ = tensors
    if torch.is_grad_enabled() or states.shape[1] == 0:
        grads = torch.func.vjp(lambda *inputs: composed(*inputs, *ctx.options), *tensors)[1](grad_y)
    else:
        with_grad_x = ctx.needs_input_grad[0]
        grads = rnn_readout_backward_op(grad_y, x, weight, bias, rate, readout, states, *ctx.options, with_grad_x)
        grads = (grads[0] if with_grad_x else None, *grads[1:])
    cast = (None if grad is None else grad.to(tensor.dtype) for grad, tensor in zip(grads, tensors, strict=True))
    return *cast, *nothing[TENSORS:]


class _RnnReadout(torch.autograd.Function):
    """The operator for eager code: reverse mode, forward mode and `torch.func`, to any order."""

    generate_vmap_rule = True

    @staticmethod
    @signed
    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        return rnn_readout_op(*inputs)

    setup_context = staticmethod(_setup_context)
    backward = staticmethod(_backward)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tangent: that of the scan between those of encoder and read-out; the kept states have none."""
        x, weight, bias, rate, readout, offset, states = ctx.saved_tensors
        dt, act_in, act_out, backend = ctx.options
        state = states.dtype
        inputs, encoder, decoder = x.to(state), weight.to(state), readout.to(state)
        d_x, d_weight, d_bias, d_rate, d_readout, d_offset = (
            torch.zeros_like(tensor, dtype=state) if tangent is None else tangent.to(state)
            for tensor, tangent in zip((x, weight, bias, rate, readout, offset), tangents, strict=False)
        )
        e = F.linear(inputs, encoder, bias.to(state))
        h, _ = apply_rnn_scan(e, rate, None, None, dt, act_in, backend)
        before, slope, jacobian = linearize(e, rate, h, None, None, dt, act_in)
        drive = F.linear(d_x, encoder) + F.linear(inputs, d_weight, d_bias) - d_rate * before
        d_h, _ = apply_linear_scan(slope * drive, jacobian, None, None, False, backend)
        d_y = F.linear(activation_slope(act_out)(h) * d_h, decoder)
        d_y = d_y + F.linear(activation(act_out)(h), d_readout, d_offset)
        return d_y.to(x.dtype), torch.zeros_like(states)


def _one_by_one(operator: Any, info: Any, in_dims: tuple[Any, ...], arguments: tuple[Any, ...]) -> tuple[Any, Any]:
    """Results of an operator entry by entry along the mapped axis, stacked."""
    results = [
        operator(*(v if d is None else v.select(d, i) for v, d in zip(arguments, in_dims, strict=True)))
        for i in range(info.batch_size)
    ]
    stacked = tuple(torch.stack(parts) for parts in zip(*results, strict=True))
    return stacked, (0,) * len(stacked)


def _rnn_readout_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    """A mapped axis joins the batch where only x has it; models that differ run one after the other."""
    if any(dim is not None for dim in in_dims[1:]):
        return _one_by_one(rnn_readout_op, info, in_dims, arguments)
    x = fold_batch(arguments[0], in_dims[0], info.batch_size, False)
    y, states = rnn_readout_op(x, *arguments[1:])
    return (split_batch(y, info.batch_size, False), split_batch(states, info.batch_size, False)), (0, 0)


def _rnn_readout_backward_vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
    """Every entry has gradients of its own, by all parameters: one after the other."""
    return _one_by_one(rnn_readout_backward_op, info, in_dims, arguments)


rnn_readout_op = register(rnn_readout, fake=_rnn_readout_fake, vmap=_rnn_readout_vmap)
rnn_readout_backward_op = register(
    rnn_readout_backward, fake=_rnn_readout_backward_fake, vmap=_rnn_readout_backward_vmap
)
register_derivative("rnn_readout", _backward, _setup_context)


def traffic(batch: int, length: int, inputs: int, outputs: int, itemsize: int) -> int:
    """Bytes that must move: forward reads x and writes y; backward, without a gradient by x, reads both."""
    return (inputs + outputs) * batch * length * itemsize


def memory(batch: int, length: int, inputs: int, width: int, itemsize: int) -> int:
    """Bytes that a training step keeps from forward to backward: x, and the states at the start of each chunk."""
    states = batch * chunk_count(length) * width * max(itemsize, 4)
    return batch * length * inputs * itemsize + states
