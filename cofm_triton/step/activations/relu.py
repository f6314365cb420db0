"""relu: act(z) = max(z, 0); its slope at 0 is 0."""

from __future__ import annotations

import math
from typing import Any

from cofm_triton.step.activations.row import Activation, KernelBodies, TorchBodies, piecewise_difference


def _torch(torch: Any) -> TorchBodies:
    def slope(z: Any) -> Any:
        return (z > 0).to(z.dtype)

    def excess(z: Any) -> Any:
        return z - torch.relu(z)

    def relaxed(z: Any, step: Any, decay: Any, times: Any, powers: Any) -> Any:
        """z decays by l; if l < 0, the first step already ends where relu is 0."""
        size = torch.where((decay < 0) & (times > 0), 0.0, z.clamp(min=0))
        return torch.where(size == 0, 0.0, size * powers(times))

    difference = piecewise_difference(torch, torch.relu, 0.0, math.inf)
    return TorchBodies(torch.relu, torch.relu_, slope, excess, difference, relaxed)


def _triton(jit: Any, tl: Any) -> KernelBodies:
    @jit
    def act(z):
        return tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)

    @jit
    def slope(z, u, scale):
        return tl.where(z > 0.0, scale, 0.0).to(z.dtype)

    @jit
    def excess(z, u):
        return z - u

    return KernelBodies(act, slope, excess)


def _jit(inlined: Any, bits: Any, real: Any) -> KernelBodies:
    choose, like = bits.choose, bits.like

    @inlined
    def act(z: Any) -> Any:
        zero = like(z, 0.0)
        return choose(z < zero, zero, z)

    @inlined
    def slope(z: Any) -> Any:
        one, zero = like(z, 1.0), like(z, 0.0)
        return choose(z > zero, one, zero)

    @inlined
    def excess(z: Any, u: Any) -> Any:
        return z - u

    return KernelBodies(act, slope, excess)


ROW = Activation(
    name="relu",
    torch=_torch,
    triton=_triton,
    jit=_jit,
    slopes=(0.0, 1.0),
    values=(0.0, math.inf),
    is_odd=False,
    is_restoring=False,
    kinks=(0.0,),
    closed_step=math.inf,
    output_size=0.584,
    output_mean=0.399,
)
