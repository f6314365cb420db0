"""The nonlinearities act(z), one file for each: its row. Code asks the row, never the name.

To add one, add a file with a `ROW` to this folder, and the definition to `reference/nonlinearity.py`. Every backend,
sweep, test and validation finds it here.
"""

from __future__ import annotations

import importlib
import pkgutil

from cofm_triton.step.activations.row import Activation, KernelBodies, TorchBodies

__all__ = ["NONLINEARITIES", "Activation", "KernelBodies", "TorchBodies", "properties"]


def _rows() -> list[Activation]:
    """Of all files of this folder: the linear one first, the others by name."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    rows = [module.ROW for module in modules if hasattr(module, "ROW")]
    return sorted(rows, key=lambda row: (not row.is_linear, row.name))


_TABLE = {row.name: row for row in _rows()}

NONLINEARITIES = tuple(_TABLE)


def properties(name: str) -> Activation:
    """The row of a nonlinearity, one of `NONLINEARITIES`.

    Raises:
        ValueError: unknown name.

    Example:
        >>> properties("tanh").is_odd, properties("relu").slopes
        (True, (0.0, 1.0))
    """
    if name not in NONLINEARITIES:
        raise ValueError(f"nonlinearity must be one of {NONLINEARITIES}, got {name!r}")
    return _TABLE[name]
