"""The nonlinearities inside compiled loops, z a float32 or float64 number or vector of them: bodies of the rows in
`step/activations`.

    activate(act, z) = act(z)      slope(act, z) = act'(z), 0 at the kinks      excess(act, z, u) = z - u

`act` is what `constant` gives, a tuple whose length is the index of the row: the length belongs to the type, so that
the compiler makes one specialised (and cached) loop for each nonlinearity that is used, which holds one body only and
vectorises. An unknown one is an error of compilation. NaN comes out as NaN; bodies are compiled with
`compiled.OPTIONS`, which allow fused multiply-adds and nothing else: no assumption about infinities or NaN.
"""

from functools import cache
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from cofm_triton.cpu.jit import bits
from cofm_triton.cpu.jit.compiled import INLINED, inlined
from cofm_triton.cpu.jit.vectors import Vector
from cofm_triton.step.activations import NONLINEARITIES, KernelBodies, properties

_REAL: Any = {types.float32: np.float32, types.float64: np.float64}


def constant(nonlinearity: str) -> tuple[int, ...]:
    """A tuple whose length is the index of the nonlinearity."""
    return (0,) * NONLINEARITIES.index(nonlinearity)


@cache
def _compiled(name: str, real: Any) -> KernelBodies:
    return properties(name).jit(inlined, bits, real)


def _bodies(act: Any, z: Any) -> KernelBodies | None:
    """Of the types of `act` and z."""
    real = _REAL.get(z.element if isinstance(z, Vector) else z)
    known = isinstance(act, types.BaseTuple) and len(act) < len(NONLINEARITIES)
    return _compiled(NONLINEARITIES[len(act)], real) if real and known else None


def activate(act: Any, z: Any) -> Any:
    """act(z)."""
    raise TypeError("compiled code only")


def slope(act: Any, z: Any) -> Any:
    """act'(z), 0 at the kinks."""
    raise TypeError("compiled code only")


def excess(act: Any, z: Any, u: Any) -> Any:
    """z - u for u = act(z), accurate relative to itself."""
    raise TypeError("compiled code only")


@overload(activate, jit_options=INLINED)
def _activate(act: Any, z: Any) -> Any:
    return _call(_bodies(act, z), "act")


@overload(slope, jit_options=INLINED)
def _slope(act: Any, z: Any) -> Any:
    return _call(_bodies(act, z), "slope")


@overload(excess, jit_options=INLINED)
def _excess(act: Any, z: Any, u: Any) -> Any:
    bodies = _bodies(act, z)
    if bodies is None:
        return None
    body = bodies.excess

    def call(act: Any, z: Any, u: Any) -> Any:
        return body(z, u)

    return call


def _call(bodies: KernelBodies | None, name: str) -> Any:
    """What the compiler puts in place of `activate` or `slope`; None is an error."""
    if bodies is None:
        return None
    body = getattr(bodies, name)

    def call(act: Any, z: Any) -> Any:
        return body(z)

    return call
