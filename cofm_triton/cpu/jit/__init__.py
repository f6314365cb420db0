"""The operators compiled for the CPU by numba: vectors of channels, all cores, machine code kept on disk."""
