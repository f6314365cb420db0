"""Cayley's map: an orthogonal matrix P from any square matrix X, and back, up to the signs of P's rows.

    P = (I - A/2)^-1 (I + A/2),   A = (X - X^T) / 2

P is orthogonal because I - A/2 and I + A/2 are each other's transposes and commute. I - A/2 is never
singular: the eigenvalues of a skew-symmetric A are imaginary.
"""

import torch
from torch import Tensor


def cayley(free: Tensor) -> Tensor:
    """P of a free matrix X, (D, D).

    Example:
        >>> cayley(torch.tensor([[7.0, 2.0], [-2.0, 7.0]], dtype=torch.float64)).tolist()
        [[0.0, 1.0], [-1.0, 0.0]]
    """
    skew = (free - free.T) / 2
    eye = torch.eye(len(free), dtype=free.dtype)
    return torch.linalg.solve(eye - skew / 2, eye + skew / 2)


def cayley_inverse(basis: Tensor) -> Tensor:
    """The skew-symmetric X with P up to the signs of rows: X = 2 (Q - I) (Q + I)^-1, Q = D P.

    D = diag(+-1) is chosen row by row, so that the pivots of Q + I (quotients of its leading minors) are as large as
    they can be. They are then at least 1 in size, so Q has no eigenvalue -1.
    """
    size = len(basis)
    eye = torch.eye(size, dtype=basis.dtype)
    turned = basis.clone()
    for k in range(size):
        sizes = []
        for sign in (1.0, -1.0):
            turned[k] = sign * basis[k]
            leading = (turned + eye)[: k + 1, : k + 1]
            sizes.append(torch.linalg.det(leading).abs())
        turned[k] = basis[k] if sizes[0] >= sizes[1] else -basis[k]
    return torch.linalg.solve(turned + eye, 2 * (turned - eye), left=False)
