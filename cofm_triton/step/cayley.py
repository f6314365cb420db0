"""Orthogonal matrices from free ones: Cayley's map, and a free matrix for every orthogonal one.

    P = (I - A/2)^-1 (I + A/2),   A = (X - X^T) / 2

X is any square matrix; only its skew-symmetric part A counts. P is orthogonal with determinant 1 and has no eigenvalue
-1; near A = 0 it is exp(A) to second order, so that an entry of A moves the same entry of P by as much.

Every orthogonal P is reached up to the signs of its rows: there are D = diag(+-1) for which D P + I is regular, and
then A = 2 (D P - I) (D P + I)^-1. Signs of rows change no P^T diag(rate) P. They are found by elimination without
exchanges: D P + I = D (P + D), so that a step adds D[k] = +-1 to its pivot, which with the pivot's own sign is at least
1 in size. (One choice of signs gives |A| <= 2 everywhere, Kahan's theorem; those of elimination come near it: 2.2 for
random P of 512 rows.)

Sources: A. Cayley (1846); G. Ballard et al., "Reconstructing Householder vectors from tall-skinny QR", J. Parallel
Distrib. Comput. 85, 2015 (the signs); W. Kahan, "Is there a small skew Cayley transform with zero diagonal?", Linear
Algebra Appl. 417, 2006 (the bound).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cofm_triton.step.wide import widened


def cayley(raw: Tensor) -> Tensor:
    """The orthogonal matrix P of a free matrix X.

    It is solved for in float64, whatever autocast says, with an error of about |I - A/2| roundings. Differentiable to
    any order; NaN and infinity in X give NaN.

    Args:
        raw: X, (D, D), floating point.

    Returns:
        P, (D, D), in float64 (see `wide.py`).

    Example:
        >>> cayley(torch.tensor([[7.0, 2.0], [-2.0, 7.0]])).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """
    x = widened(raw)
    half = (x - x.mT) / 4
    eye = torch.eye(len(x), dtype=x.dtype, device=x.device)
    # solve_ex: I - A/2 is never singular, and asking a GPU whether it was would wait for it.
    basis: Tensor = torch.linalg.solve_ex(eye - half, eye + half).result
    return basis


@torch.no_grad()
def cayley_inverse(basis: Tensor) -> Tensor:
    """A free matrix whose P is the given one up to the signs of rows; it is skew-symmetric.

    No value is looked at, so that tensors without numbers (device "meta") pass too.

    Args:
        basis: P, (D, D), floating point, orthogonal up to rounding.

    Returns:
        X, (D, D), in float64 (see `wide.py`).

    Raises:
        ValueError: `basis` is not square.

    Example:
        >>> cayley(cayley_inverse(-torch.eye(2))).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if basis.dim() != 2 or basis.shape[0] != basis.shape[1]:
        raise ValueError(f"basis must be a square matrix, got shape {tuple(basis.shape)}")
    p = widened(basis)
    eye = torch.eye(len(p), dtype=p.dtype, device=p.device)
    # A = 2 (Q - I) (Q + I)^-1 = 2 I - 4 (Q + I)^-1, Q = D P
    inverse = torch.linalg.inv_ex(_row_signs(p).unsqueeze(1) * p + eye).inverse
    return 2 * (inverse.mT - inverse)


def _row_signs(basis: Tensor) -> Tensor:
    """D, (D,), for which elimination without exchanges meets no pivot of D P + I below 1."""
    rest, signs = basis.clone(), torch.ones_like(basis[0])
    for k in range(len(basis)):
        pivot = rest[k, k]
        signs[k] = torch.where(pivot < 0, -1.0, 1.0)
        row = rest[k, k + 1 :] / (pivot + signs[k])
        rest[k + 1 :, k + 1 :].addr_(rest[k + 1 :, k], row, alpha=-1)
    return signs


def convert_parametrization(state_dict: dict[str, Any], prefix: str, name: str) -> None:
    """Put a free matrix in place of what `torch.nn.utils.parametrizations.orthogonal` keeps of one parameter.

    PyTorch keeps X and a base B and computes P = B (I - A/2)^-1 (I + A/2) with A = tril(X) - tril(X)^T. Signs of rows
    of P may change.

    Args:
        state_dict: changed in place, if it has both entries.
        prefix: of the module's entries.
        name: of the parameter that was parametrised with `orthogonal_map="cayley"`.
    """
    keys = [f"{prefix}parametrizations.{name}.{part}" for part in ("original", "0.base")]
    if not all(key in state_dict for key in keys):
        return
    old, base = (state_dict.pop(key) for key in keys)
    basis = widened(base) @ cayley(2 * widened(old).tril())
    state_dict[prefix + name] = cayley_inverse(basis).to(old.dtype)
