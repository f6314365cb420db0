"""The operators compiled for the CPU by numba: whole rows of channels, both cores, cached on disk."""
