"""The matrix W of  dh/dt = -W h + e  from rates and a matrix, and how fast such a system decays.

    congruence       P^T diag(rate) P     symmetric; its eigenvalues are the rates if P is orthogonal
    diagonal_plus    diag(rate) + S       S skew-symmetric: d|h|^2/dt = -2 h^T diag(rate) h, so that every mode decays
                                          at least as fast as the smallest rate, whatever S

Up to a rotation of h, every W with a positive definite symmetric part has the second form: the rotation makes the
symmetric part diagonal. Source: arXiv 2305.19190, section 2 (the recurrent weights of the paper's models).
"""

import torch
from torch import Tensor


def congruence(rate: Tensor, basis: Tensor) -> Tensor:
    """P^T diag(rate) P.

    Args:
        rate: (D,), 1 / time.
        basis: P, (D, D), of the same dtype.

    Returns:
        (D, D), 1 / time.

    Example:
        >>> congruence(torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])).tolist()
        [[2.0, 0.0], [0.0, 1.0]]
    """
    return basis.T @ (rate.unsqueeze(1) * basis)


def diagonal_plus(rate: Tensor, matrix: Tensor, *, skew: bool) -> Tensor:
    """diag(rate) + S, S the skew-symmetric part of `matrix`, (matrix - matrix^T) / 2, or `matrix` itself.

    Args:
        rate: (D,), 1 / time.
        matrix: (D, D), of the same dtype, 1 / time.
        skew: whether only the skew-symmetric part counts.

    Returns:
        (D, D), 1 / time.

    Example:
        >>> diagonal_plus(torch.tensor([1.0, 2.0]), torch.tensor([[9.0, 1.0], [0.0, 9.0]]), skew=True).tolist()
        [[1.0, 0.5], [-0.5, 2.0]]
    """
    return torch.diag(rate) + ((matrix - matrix.T) / 2 if skew else matrix)


def decay_rate(matrix: Tensor) -> float:
    """The smallest real part of the eigenvalues of W, 1 / time: negative where a mode grows.

    Example:
        >>> round(decay_rate(torch.tensor([[1.0, 4.0], [-4.0, 3.0]])), 12)
        2.0
    """
    return float(torch.linalg.eigvals(matrix.cpu().double()).real.min())
