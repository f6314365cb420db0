"""The numbers in the rate functions of `parameterization.py`, which Triton kernels read too: no PyTorch here."""

from __future__ import annotations

# inverse: 1 / (INVERSE_A w^2 + INVERSE_B).
INVERSE_A = 1.0
INVERSE_B = 0.5
# exp(30) = 1e13 per unit of time is instantaneous; further up gradients overflow.
EXP_LIMIT = 30.0
