"""hardtanh: act(z) = min(max(z, -1), 1); its slope at -1 and 1 is 0."""

from __future__ import annotations

from typing import Any

from cofm_triton.step.activations.row import Activation, KernelBodies, TorchBodies, piecewise_difference


def _torch(torch: Any) -> TorchBodies:
    act = torch.nn.functional.hardtanh

    def slope(z: Any) -> Any:
        return (z.abs() < 1).to(z.dtype)

    def excess(z: Any) -> Any:
        return z - act(z)

    def relaxed(z: Any, step: Any, decay: Any, times: Any, powers: Any) -> Any:
        """|z| falls by A until it is at most 1, and decays by l from there."""
        size, sign = z.abs(), z.sign()
        never = torch.where(size > 1, torch.inf, 0.0)  # a unit that does not decay stays saturated
        saturated = torch.where(step > 0, ((size - 1) / step).ceil().clamp(min=0), never)
        start = torch.where(saturated > 0, size - saturated.clamp(max=1e300) * step, size)
        decayed = powers((times - saturated).clamp(min=0))
        inside = torch.where(start == 0, 0.0, start * decayed).clamp(-1, 1)
        return sign * torch.where(times < saturated, 1.0, inside)

    return TorchBodies(
        act, torch.nn.functional.hardtanh_, slope, excess, piecewise_difference(torch, act, -1.0, 1.0), relaxed
    )


def _triton(jit: Any, tl: Any) -> KernelBodies:
    @jit
    def act(z):
        if z.dtype == tl.float64:  # no target has the fused instruction for it, and on sm_90 Triton asks for one
            low = tl.maximum(z, -1.0, propagate_nan=tl.PropagateNan.ALL)
            u = tl.minimum(low, 1.0, propagate_nan=tl.PropagateNan.ALL)
        else:
            u = tl.clamp(z, -1.0, 1.0, propagate_nan=tl.PropagateNan.ALL)
        return u

    @jit
    def slope(z, u, scale):
        return tl.where(tl.abs(z) < 1.0, scale, 0.0).to(z.dtype)

    @jit
    def excess(z, u):
        return z - u

    return KernelBodies(act, slope, excess)


def _jit(inlined: Any, bits: Any, real: Any) -> KernelBodies:
    choose, like = bits.choose, bits.like

    @inlined
    def act(z: Any) -> Any:
        one = like(z, 1.0)
        lower = choose(z < -one, -one, z)
        return choose(lower > one, one, lower)

    @inlined
    def slope(z: Any) -> Any:
        one, zero = like(z, 1.0), like(z, 0.0)
        return choose(abs(z) < one, one, zero)

    @inlined
    def excess(z: Any, u: Any) -> Any:
        return z - u

    return KernelBodies(act, slope, excess)


ROW = Activation(
    name="hardtanh",
    torch=_torch,
    triton=_triton,
    jit=_jit,
    slopes=(0.0, 1.0),
    values=(-1.0, 1.0),
    is_odd=True,
    is_restoring=True,
    kinks=(-1.0, 1.0),
    linear_radius=1.0,
    closed_step=2.0,  # a unit that has left saturation never returns
    output_size=0.718,
)
