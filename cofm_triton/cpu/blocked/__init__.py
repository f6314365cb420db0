"""The operators in plain PyTorch, vectorised over blocks of time: for machines without Triton and numba."""
