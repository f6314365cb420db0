"""Stable recurrent networks, fast: parallel-scan-friendly recurrences and memory/stability sweeps."""

from cofm_triton._version import __version__

__all__ = ["__version__"]
