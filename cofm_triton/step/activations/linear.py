"""linear: act(z) = z."""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.activations.row import Activation, KernelBodies, TorchBodies


def _torch(torch: Any) -> TorchBodies:
    def act(z: Any) -> Any:
        return z

    def excess(z: Any) -> Any:
        return torch.zeros_like(z)

    def difference(z: Any, step: Any) -> Any:
        return step + torch.zeros_like(z)

    return TorchBodies(act, act, torch.ones_like, excess, difference)


def _triton(jit: Any, tl: Any) -> KernelBodies:
    @jit
    def act(z):
        return z

    @jit
    def slope(z, u, scale):
        return tl.full(z.shape, 1.0, z.dtype) * scale

    @jit
    def excess(z, u):
        return z - u

    return KernelBodies(act, slope, excess)


def _jit(inlined: Any, bits: Any, real: Any) -> KernelBodies:
    like = bits.like

    @inlined
    def act(z: Any) -> Any:
        return z

    @inlined
    def slope(z: Any) -> Any:
        return like(z, 1.0)

    @inlined
    def excess(z: Any, u: Any) -> Any:
        return z - u

    return KernelBodies(act, slope, excess)


ROW = Activation(
    name="linear",
    torch=_torch,
    triton=_triton,
    jit=_jit,
    slopes=(1.0, 1.0),
    values=(-math.inf, math.inf),
    is_odd=True,
    is_restoring=True,
    linear_radius=math.inf,
    closed_step=math.inf,
)
