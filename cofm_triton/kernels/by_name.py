"""Triton functions that choose a body by the name of a row: one branch for each row of a table.

Triton compiles the source of functions, so that the branches are written here, from the table. The bodies come from
functions of the rows, which make them when Triton is there (`step/activations`, `step/parameterizations`).
"""

from __future__ import annotations

import inspect
import linecache
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import triton
import triton.language as tl


def jit(function: Callable[..., Any]) -> Any:
    """`triton.jit` for a function inside another one: its interpreter looks for names among globals alone."""
    names = {**function.__globals__, **inspect.getclosurevars(function).nonlocals, "tl": tl}
    return triton.jit(
        FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    )


def chosen(name: str, arguments: str, option: str, bodies: Mapping[str, Any]) -> Any:
    """The Triton function `name(arguments, OPTION)`, which calls the body of the row that the constant OPTION names.

    An unknown name is an error of compilation.

    Args:
        name: of the function.
        arguments: what it passes on, separated by commas.
        option: the name of the constant.
        bodies: one Triton function for each row.
    """
    lines = [f"def {name}({arguments}, {option}: tl.constexpr):"]
    for row in bodies:
        lines += [f"    {'elif' if len(lines) > 1 else 'if'} {option} == {row!r}:", f"        y = {row}({arguments})"]
    lines += [
        "    else:",
        f"        tl.static_assert(False, {f'{option} must be one of {tuple(bodies)}'!r})",
        "    return y",
    ]
    source, file = "\n".join(lines) + "\n", f"<{name} by {option}>"
    linecache.cache[file] = len(source), None, source.splitlines(keepends=True), file
    scope: dict[str, Any] = {"__name__": __name__, "tl": tl, **bodies}
    exec(compile(source, file, "exec"), scope)
    return triton.jit(scope[name])
