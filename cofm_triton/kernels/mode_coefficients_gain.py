"""The gain of a layer inside its encoder, gain (U x + b) = U' x + b', and the gradients: one launch each way.

Row i of U is a unit's. With G = dL/dU' and c = dL/db':

    U'[i] = gain[i] U[i]            b'[i] = gain[i] b[i]
    dL/dU[i] = gain[i] G[i]         dL/db[i] = gain[i] c[i]
    dL/dgain[i] = sum over k of G[i, k] U[i, k] + c[i] b[i]

A program owns a row. Traffic in elements per element of U: 2, and 3 backward.
Source: `layers/encoder.py`, and its adjoint.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launches import launch

BLOCK, NUM_WARPS = 512, 4  # of a row; four numbers a lane


@triton.jit
def gain_kernel(
    weight_ptr,  # (D, d), U
    bias_ptr,  # (D,), b; None: there is none
    gain_ptr,  # (D,)
    gained_ptr,  # out: (D, d), contiguous
    gained_bias_ptr,  # out: (D,)
    d: tl.int64, stride_row: tl.int64, stride_column: tl.int64, BLOCK: tl.constexpr,
):  # fmt: skip
    """U' and b'."""
    i = tl.program_id(0).to(tl.int64)
    gain = tl.load(gain_ptr + i)
    for start in range(0, d, BLOCK):
        k = start + tl.arange(0, BLOCK)
        row = tl.load(weight_ptr + i * stride_row + k * stride_column, mask=k < d)
        tl.store(gained_ptr + i * d + k, gain * row, mask=k < d)
    if bias_ptr is not None:
        tl.store(gained_bias_ptr + i, gain * tl.load(bias_ptr + i))


@triton.jit
def gain_gradients_kernel(
    grad_ptr,  # (D, d), contiguous: G, and out: dL/dU
    grad_bias_ptr,  # (D,): c, and out: dL/db; None: there is none
    weight_ptr, bias_ptr, gain_ptr,  # as above
    grad_gain_ptr,  # out: (D,)
    d: tl.int64, stride_row: tl.int64, stride_column: tl.int64, BLOCK: tl.constexpr,
):  # fmt: skip
    """All gradients, two of them in the place of those that are given."""
    i = tl.program_id(0).to(tl.int64)
    gain = tl.load(gain_ptr + i)
    products = tl.zeros((BLOCK,), gain.dtype)
    for start in range(0, d, BLOCK):
        k = start + tl.arange(0, BLOCK)
        row = tl.load(weight_ptr + i * stride_row + k * stride_column, mask=k < d, other=0.0)
        grad = tl.load(grad_ptr + i * d + k, mask=k < d, other=0.0)
        products += grad * row
        tl.store(grad_ptr + i * d + k, gain * grad, mask=k < d)
    grad_gain = tl.sum(products, 0)
    if bias_ptr is not None:
        grad_bias = tl.load(grad_bias_ptr + i)
        grad_gain += grad_bias * tl.load(bias_ptr + i)
        tl.store(grad_bias_ptr + i, gain * grad_bias)
    tl.store(grad_gain_ptr + i, grad_gain)


def forward(weight: Any, bias: Any, gain: Any) -> tuple[Any, Any]:
    """`(U', b')` for one dtype; gain (D,), contiguous, any U."""
    gained, gained_bias = weight.new_empty(weight.shape), None if bias is None else gain.new_empty(bias.shape)
    launch(gain_kernel, (weight.shape[0],))(
        weight, bias, gain, gained, gained_bias, weight.shape[1], *weight.stride(), BLOCK=BLOCK, num_warps=NUM_WARPS
    )
    return gained, gained_bias


def backward(grad: Any, grad_bias: Any, weight: Any, bias: Any, gain: Any) -> Any:
    """dL/dgain; `grad` and `grad_bias`, contiguous, become the gradients by U and b."""
    grad_gain = gain.new_empty(gain.shape)
    launch(gain_gradients_kernel, (weight.shape[0],))(
        grad, grad_bias, weight, bias, gain, grad_gain, weight.shape[1], *weight.stride(),
        BLOCK=BLOCK, num_warps=NUM_WARPS,
    )  # fmt: skip
    return grad_gain
