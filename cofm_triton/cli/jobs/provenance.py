"""What a job's results depend on, to the bit, besides its settings."""

from __future__ import annotations

import platform
from typing import Any

from cofm_triton._version import __version__
from cofm_triton.support import system

_PACKAGES = ("torch", "numpy", "numba", "triton")


def provenance(device: str) -> dict[str, Any]:
    """Versions and device, JSON values.

    Args:
        device: "cpu", "cuda" or "cuda:1".

    Example:
        >>> sorted(provenance("cpu"))
        ['device', 'versions']
    """
    installed = dict.fromkeys(_PACKAGES, "none") | system.versions(_PACKAGES)
    versions = {"cofm_triton": __version__, "python": platform.python_version(), **installed}
    return {"versions": versions, "device": _device_name(device)}


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return f"{device} ({platform.machine()})"
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})"
