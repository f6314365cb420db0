"""The operators in plain PyTorch, blocked and vectorised: what runs where neither Triton nor numba can."""
