"""Packages whose names are imported on first use (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy(package: str, names: Mapping[str, Sequence[str]]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package.

    Type checkers read the same imports under `TYPE_CHECKING`; the names are listed in the package's `__all__`.

    Args:
        package: its `__name__`.
        names: of each module below the package, "" for the package: what is imported from it. No name may be that of
            a module of the package, unless it means this module: importing a module sets the package's attribute.

    Returns:
        Functions to be assigned to `__getattr__` and `__dir__`.

    Example:
        >>> load, names = lazy("cofm_triton.support", {"": ["files"], "scalars": ["check_int"]})
        >>> load("check_int").__module__
        'cofm_triton.support.scalars'
        >>> {"check_int", "files"} <= set(names())
        True
    """
    homes = {name: module for module, some in names.items() for name in some}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if home := homes[name]:
            value = getattr(import_module(f"{package}.{home}"), name)
        else:
            value = import_module(f"{package}.{name}")
        setattr(sys.modules[package], name, value)  # found without this function from now on
        return value

    def directory() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return load, directory
