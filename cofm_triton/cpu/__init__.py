"""The operators on the CPU: compiled (`jit`, numba) and in plain PyTorch (`blocked`), under the same names."""
