"""Where and with what the numbers were measured."""

from __future__ import annotations

import os
import platform
import sys
from datetime import datetime, timezone
from typing import Any

import torch

from cofm_triton.support.system import processor_name, processors, versions

PACKAGES = (
    "cofm-triton", "torch", "triton", "numba", "numpy",
    "accelerated-scan", "fla-core", "haste_pytorch", "jax", "lrnnx", "mamba-ssm", "mingru-scans", "s5-pytorch", "sru",
)  # fmt: skip


# Others at work on more than this share of the processors: threads wait for one another, and times mean little.
BUSY = 0.25


def load() -> float | None:
    """Runnable processes of the last minute per processor; None where the system does not count them."""
    return os.getloadavg()[0] / processors() if hasattr(os, "getloadavg") else None


def describe(device: torch.device, load_before: float | None) -> dict[str, Any]:
    """Machine, versions and date, ready for JSON.

    Args:
        device: where the tensors were.
        load_before: what `load` said before the first measurement.
    """
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "processors": processors(),
        "load_before": load_before,
        "system": f"{platform.system()} {platform.machine()}",
        "python": sys.version.split()[0],
        "versions": versions(PACKAGES),
    }


def caption(where: dict[str, Any]) -> str:
    """One line about a machine that `describe` described: what, date, whether it was busy, and versions."""
    load = where["load_before"]
    busy = f"; busy: {load:.1f} processes per processor" if load is not None and load > BUSY else ""
    listed = ", ".join(f"{name} {number}" for name, number in where["versions"].items())
    return f"{where['device']}, {where['threads']} threads, {where['date']}{busy}; {listed}"
