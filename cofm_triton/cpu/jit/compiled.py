"""Decorators: how functions are compiled depends on who calls them.

- `entry`: called by Python. Releases the GIL, so that threads run side by side. Its machine code, with all that it
  calls, is kept on disk (`code_cache.py`).
- `inner`, `inlined`, `summing`: called by compiled code only. They have no entrance for Python, which would take a
  third of the compilation.

Of the fast-math options only fused multiply-adds are on, and in `summing` any order of a sum. Infinities and NaN follow
the recurrence, and division by zero gives what IEEE 754 says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from cofm_triton.cpu.jit.code_cache import keep_safely

OPTIONS: Any = {"fastmath": {"contract"}, "error_model": "numpy"}
_NO_C: Any = {"no_cfunc_wrapper": True}
_INTERNAL: Any = {"no_cpython_wrapper": True, **_NO_C}


# Called from Python.
def entry(function: Callable[..., Any]) -> Any:
    """Compile at the first call with arguments of new types, or take the code from disk."""
    return keep_safely(njit(nogil=True, **_NO_C, **OPTIONS)(function))


# Called from compiled code: as a part of its caller, or as a function of its own.
INLINED: Any = {"forceinline": True, **_INTERNAL, **OPTIONS}
inlined: Any = njit(**INLINED)
inner: Any = njit(**_INTERNAL, **OPTIONS)
# A sum that may be taken in any order: its own loop, in vectors of partial sums.
summing: Any = njit(**_INTERNAL, **(OPTIONS | {"fastmath": {"contract", "reassoc"}}))
