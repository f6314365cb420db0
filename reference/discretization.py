"""One step of length dt of  dh/dt = -rate * h + e.

"euler" is the paper's scheme, stable only while 0 < dt * rate < 2. "exact" is the true solution over a step in which e
is constant, stable for every positive rate.
"""

import torch
from torch import Tensor

DISCRETIZATIONS = ("euler", "exact")

_SERIES_LIMIT = 1.0
_SERIES_TERMS = 19  # 1 / 20! is below 1e-18


def complement(x: Tensor) -> Tensor:
    """1 - exp(-x), with an accurate derivative exp(-x).

    Autograd computes the derivative of expm1 as its result plus 1, which cancels where exp(-x) is small. The argument
    is cut off by `where`: what the derivative of clamp is at its limit depends on the release of PyTorch.

    Example:
        >>> complement(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        [0.0, 0.6321205588285577]
    """
    far = x > 1
    return torch.where(far, 1 - torch.exp(-torch.where(far, x, 1.0)), -torch.expm1(-torch.where(far, 1.0, x)))


def phi(x: Tensor) -> Tensor:
    """The gain of a zero-order hold, with accurate derivatives at and near 0.

        phi(x) = (1 - exp(-x)) / x,   phi(0) = 1

    The n-th derivative of the quotient has errors of eps / x^n, by cancellation. So arguments below 1 take the series
    sum_n (-x)^n / (n + 1)!. Each branch gets only arguments that it can handle, so that no gradient is NaN.

    Args:
        x: any shape, real.

    Example:
        >>> phi(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        [1.0, 0.6321205588285577]
    """
    small = x.abs() < _SERIES_LIMIT
    large = torch.where(small, torch.ones_like(x), x)
    quotient = complement(large) / large
    near = torch.where(small, x, torch.zeros_like(x))
    series = torch.ones_like(x)
    for n in range(_SERIES_TERMS, 0, -1):
        series = 1 - near / (n + 1) * series
    return torch.where(small, series, quotient)


def effective_rate(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """The rate a to put into the nonlinear step h + dt * act(e - a h).

        euler: a = rate;   exact: a = (1 - exp(-dt rate)) / dt

    Args:
        rate: any shape, 1 / time.
        dt: step, time.
        discretization: "euler" or "exact".

    Raises:
        ValueError: unknown discretization.
    """
    if _is_exact(discretization):
        return complement(dt * rate) / dt
    return rate


def linear_decay(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """Decay l of the linear step h -> l h + g e; euler: 1 - dt rate, exact: exp(-dt rate).

    Raises:
        ValueError: unknown discretization.
    """
    return torch.exp(-dt * rate) if _is_exact(discretization) else 1 - dt * rate


def linear_gain(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """Gain g of the linear step h -> l h + g e; euler: dt, exact: dt phi(dt rate).

    Raises:
        ValueError: unknown discretization.
    """
    return dt * phi(dt * rate) if _is_exact(discretization) else dt * torch.ones_like(rate)


def effective_matrix(matrix: Tensor, dt: float, discretization: str) -> Tensor:
    """The matrix A to put into the nonlinear step h + dt * act(e - A h) of  dh/dt = -W h + e.

        euler: A = W;   exact: A = (I - exp(-dt W)) / dt = G W / dt, G of `matrix_gain`

    The product avoids the difference, which would cancel where dt W is small.

    Args:
        matrix: W, (D, D), 1 / time.
        dt: step, time.
        discretization: "euler" or "exact".

    Raises:
        ValueError: unknown discretization.
    """
    if _is_exact(discretization):
        return matrix_gain(matrix, dt, discretization) @ matrix / dt
    return matrix


def matrix_gain(matrix: Tensor, dt: float, discretization: str) -> Tensor:
    """Gain G of the linear step h -> (I - dt A) h + G e; euler: dt I, exact: the integral of
    exp(-s W) over a step.

    The integral solves dG/ds = I - W G, G(0) = 0, a linear system with an exponential of its own.
    """
    size = len(matrix)
    eye = torch.eye(size, dtype=matrix.dtype)
    if not _is_exact(discretization):
        return dt * eye
    # In time s / dt. The 1 keeps the system so large that PyTorch's matrix_exp does not take its
    # polynomial of degree 8, which has a wrong coefficient (pytorch/pytorch issue 196592).
    system = torch.zeros(2 * size, 2 * size, dtype=matrix.dtype)
    system[:size, :size] = -dt * matrix
    system[:size, size:] = eye
    return dt * torch.matrix_exp(system)[:size, size:]


def _is_exact(discretization: str) -> bool:
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization must be one of {DISCRETIZATIONS}, got {discretization!r}")
    return discretization == "exact"
