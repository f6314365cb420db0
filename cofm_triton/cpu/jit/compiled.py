"""How compiled functions are compiled, by who calls them.

Fused multiply-adds are allowed, and nothing else: infinities and NaN follow the recurrence. Division by zero gives
what IEEE 754 says.

What Python calls releases the GIL, so that threads run side by side, and its machine code, with all that it calls, is
kept on disk (`code_cache.py`). The rest is called by compiled code alone: entrances for Python would take a third of
compilation. Python must not call it: there is nothing to enter.
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
inlined: Any = njit(forceinline=True, **_INTERNAL, **OPTIONS)
inner: Any = njit(**_INTERNAL, **OPTIONS)
# A sum that may be taken in any order: its own loop, in vectors of partial sums.
summing: Any = njit(**_INTERNAL, **(OPTIONS | {"fastmath": {"contract", "reassoc"}}))
