"""The parameterisations rate = f(w), one file for each: a function `row`, whose arguments are the numbers in f.

To add one, add a file with a `row` to this folder, and the definition to `reference/parameterization.py`. Layers,
kernels, tests and commands find it here.

A name may carry numbers, "inverse(a=1.0, b=0.1)": such a name is taken wherever a name is.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pkgutil
import re
from collections.abc import Callable

from cofm_triton.step.parameterizations.row import Interval, KernelRate, RateFunction, TorchRate

__all__ = ["PARAMETERIZATIONS", "Interval", "KernelRate", "RateFunction", "TorchRate", "rate_function"]

_WITH_NUMBERS = re.compile(r"(\w+)\((.+)\)")


def _rows() -> dict[str, Callable[..., RateFunction]]:
    """Of all files of this folder: "direct" first, the others by name."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    rows = {module.row().name: module.row for module in modules if hasattr(module, "row")}
    return dict(sorted(rows.items(), key=lambda item: (item[0] != "direct", item[0])))


_TABLE = _rows()

PARAMETERIZATIONS = tuple(_TABLE)


def rate_function(name: str, **numbers: float) -> RateFunction:
    """The row of a parameterisation.

    Args:
        name: one of `PARAMETERIZATIONS`, or such a name with numbers.
        numbers: in f, those of "inverse" are a and b; the usual ones where none are given.

    Raises:
        TypeError: f has no such number.
        ValueError: unknown name, or a number out of range.

    Example:
        >>> rate_function("inverse", b=0.1).name
        'inverse(a=1.0, b=0.1)'
        >>> rate_function("inverse(a=1.0, b=0.1)").range.high
        10.0
    """
    match = _WITH_NUMBERS.fullmatch(name) if isinstance(name, str) else None
    plain = match[1] if match else name
    if plain not in PARAMETERIZATIONS:
        raise ValueError(f"parameterization must be one of {PARAMETERIZATIONS}, got {name!r}")
    known = tuple(inspect.signature(_TABLE[plain]).parameters)
    given = {**(_parsed(name, match[2]) if match else {}), **numbers}
    for number, value in given.items():
        if number not in known:
            accepted = f"the numbers {known}" if known else "no numbers"
            raise TypeError(f"parameterization {plain!r} takes {accepted}, got {number}={value!r}")
        if not 0 < value < math.inf:
            raise ValueError(f"{number} of parameterization {plain!r} must be finite and positive, got {value!r}")
    return _TABLE[plain](**{number: float(value) for number, value in given.items()})


def _parsed(name: str, numbers: str) -> dict[str, float]:
    """The numbers of "a=1.0, b=0.1"."""
    try:
        pairs = (item.split("=") for item in numbers.split(","))
        return {key.strip(): float(value) for key, value in pairs}
    except ValueError as error:
        raise ValueError(f"parameterization must read like 'inverse(a=1.0, b=0.1)', got {name!r}") from error
