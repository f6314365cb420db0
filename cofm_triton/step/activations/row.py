"""What a nonlinearity act(z) is: numbers and properties, and its body in the language of every backend."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class TorchBodies(NamedTuple):
    """Functions of PyTorch tensors, elementwise.

    Attributes:
        act: `act(z)`; its derivative at a kink is 0, or that of PyTorch's function.
        in_place: the same in the memory of z, which is returned.
        slope: `slope(z)`, act'(z), differentiable once more where act is smooth.
        excess: `excess(z)`, z - act(z), accurate relative to itself.
        difference: `difference(z, step)`, act(z + step) - act(z), accurate relative to itself however small it is
            beside act(z).
        relaxed: `relaxed(z, step, decay, times, powers)`, act of the z that `times` steps z <- z - step act(z) lead to,
            decay = 1 - step and `powers(n)` is decay^n; for steps up to `Activation.closed_step`; None if act is
            linear, or if there is no closed form.
    """

    act: Callable[[Any], Any]
    in_place: Callable[[Any], Any]
    slope: Callable[[Any], Any]
    excess: Callable[[Any], Any]
    difference: Callable[[Any, Any], Any]
    relaxed: Callable[[Any, Any, Any, Any, Callable[[Any], Any]], Any] | None = None


class KernelBodies(NamedTuple):
    """Functions in the language of a compiler, with NaN passed on and slopes of 0 at kinks.

    Attributes:
        act: `act(z)`.
        slope: act'(z); in Triton `slope(z, u, scale)`, scale * act'(z) from z or u = act(z), whichever is cheaper.
        excess: `excess(z, u)`, z - u for u = act(z), accurate relative to itself.
    """

    act: Any
    slope: Any
    excess: Any


@dataclass(frozen=True)
class Activation:
    """One row of the table. Bodies are made when their backend is first used: importing a row imports no backend.

    Attributes:
        name: the name used throughout the library.
        torch: `torch(module)`, the functions of tensors, from the module `torch`.
        triton: `triton(jit, tl)`, the functions of Triton values, from a decorator for all that Triton compiles and the
            module `triton.language`.
        jit: `jit(inlined, bits, real)`, the functions inside compiled loops of the CPU, from a decorator for all that
            numba compiles, the module `cofm_triton.cpu.jit.bits` and numpy's type of numbers; z is one or a vector.
        slopes: smallest and largest value of act'.
        values: infimum and supremum of act.
        is_odd: whether act(-z) = -act(z).
        is_restoring: whether act(z) is 0 at z = 0 only, and tends to 0 nowhere else: it drives every state on.
        kinks: where act' jumps.
        curvature: largest |act''| between kinks.
        linear_radius: |z| up to which act(z) is z, to 1e-13 of it.
        closed_step: A up to which z <- z - A act(z) has a closed form, `TorchBodies.relaxed`.
        roundings: of act(z), relative to itself, in units of roundoff (half a unit in the last place).
        input_roundings: more of them, relative to z.
        slope_roundings: of act'(z), relative to 1.
        cost: instructions of act, in those of a clamp.
        output_size, output_mean: standard deviation and mean of act(z), z ~ N(0, 1).
    """

    name: str
    torch: Callable[[Any], TorchBodies]
    triton: Callable[[Any, Any], KernelBodies]
    jit: Callable[[Any, Any, Any], KernelBodies]
    slopes: tuple[float, float]
    values: tuple[float, float]
    is_odd: bool
    is_restoring: bool
    kinks: tuple[float, ...] = ()
    curvature: float = 0.0
    linear_radius: float = 0.0
    closed_step: float = 0.0
    roundings: int = 0
    input_roundings: int = 0
    slope_roundings: int = 0
    cost: int = 1
    output_size: float = 1.0
    output_mean: float = 0.0

    @property
    def is_linear(self) -> bool:
        """Whether act(z) = z."""
        return self.slopes == (1.0, 1.0)

    @property
    def is_cheap(self) -> bool:
        """Whether act takes an instruction or two."""
        return self.cost == 1

    @property
    def bound(self) -> float:
        """Supremum of |act|."""
        return max(-self.values[0], self.values[1])

    @property
    def is_bounded(self) -> bool:
        """Whether |act| has a bound."""
        return self.bound < math.inf

    @property
    def is_contracting(self) -> bool:
        """Whether act(0) = 0 and slopes lie in [0, 1]: what proofs of stability with act inside assume."""
        return self.slopes[0] >= 0 and self.slopes[1] <= 1

    def error(self, z: Any, value: Any) -> Any:
        """How far a computed act(z) may be from the exact value, in units of roundoff; z and value are tensors."""
        error = self.roundings * abs(value)
        return error + self.input_roundings * abs(z) if self.input_roundings else error

    @property
    def slope_range(self) -> float:
        """How far two slopes may be apart."""
        return self.slopes[1] - self.slopes[0]


def piecewise_difference(torch: Any, act: Callable[[Any], Any], low: float, high: float) -> Callable[[Any, Any], Any]:
    """`TorchBodies.difference` of an act whose slope is 1 on [low, high] and 0 elsewhere."""

    def difference(z: Any, step: Any) -> Any:
        end = z + step
        sloped = (torch.minimum(z, end) >= low) & (torch.maximum(z, end) <= high)
        return torch.where(sloped, step, act(end) - act(z))

    return difference
