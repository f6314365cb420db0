"""The gradient by the pre-activations of an activation: grad_z = act'(z) grad, in one launch.

A program owns `BLOCK` numbers of tensors of any shape. Traffic in elements per number: 3.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.launch import ELEMENT_WARPS, ELEMENTS
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.nonlinearity import act, act_derivative


@triton.jit
def activation_gradient_kernel(
    grad_ptr, z_ptr, grad_z_ptr,  # (count,), contiguous, of one dtype, float32 or float64
    count: tl.int64, NONLINEARITY: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """act'(z) grad."""
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = i < count
    z = tl.load(z_ptr + i, mask=there, other=0.0)
    grad = tl.load(grad_ptr + i, mask=there, other=0.0)
    u = act(z, NONLINEARITY=NONLINEARITY)
    tl.store(grad_z_ptr + i, act_derivative(z, u, grad, NONLINEARITY=NONLINEARITY), mask=there)


def backward(grad: Any, z: Any, nonlinearity: str) -> Any:
    """grad_z, contiguous; z is contiguous, grad of its shape has any strides."""
    grad, grad_z = grad.contiguous(), z.new_empty(z.shape)
    count = z.numel()
    launch(activation_gradient_kernel, (triton.cdiv(count, ELEMENTS),))(
        grad, z, grad_z, count, NONLINEARITY=nonlinearity, BLOCK=ELEMENTS, num_warps=ELEMENT_WARPS
    )
    return grad_z
