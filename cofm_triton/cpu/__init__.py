"""The operators on the CPU, under the same names twice: compiled by numba (`jit`), and in plain PyTorch (`blocked`)."""
