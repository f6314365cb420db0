"""From the rate of  dh/dt = -rate * h + e  to one step of length dt.

The nonlinear step is  h' = h + dt * act(e - a h), the linear one  h' = l h + g e, with

    discretization   effective rate a           decay l           gain g
    "euler"          rate                       1 - dt rate       dt
    "exact"          (1 - exp(-dt rate)) / dt   exp(-dt rate)     dt phi(dt rate)

and phi(x) = (1 - exp(-x)) / x. "euler" is the scheme of the paper's code (arXiv 2305.19190, eq 1),
stable only while 0 < dt * rate < 2. "exact" is stable for every positive rate; its linear step is
the true solution over one step with e held constant (zero-order hold).

A matrix W takes the place of the rates in  dh/dt = -W h + e : a and g become the matrices of `effective_matrix` and
`matrix_gain`, with the matrix exponential in place of exp, and the linear step is again  h' = h + dt (g/dt e - a h).
"""

import torch
from torch import Tensor

DISCRETIZATIONS = ("exact", "euler")

_SERIES_LIMIT = 0.25
_SERIES_TERMS = 13  # the first term left out, 0.25^14 / 15!, is below 1e-20


def complement(x: Tensor) -> Tensor:
    """1 - exp(-x), accurate relative to itself, and so is its derivative exp(-x).

    Autograd takes the derivative of expm1 from its result, which cancels once exp(-x) is small, so
    large arguments go the direct way. Each branch sees only arguments it can handle.

    Args:
        x: any shape, float32 or float64, no unit.

    Example:
        >>> complement(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        [0.0, 0.6321205588285577]
    """
    small = -torch.expm1(-x.clamp(max=1))
    large = 1 - torch.exp(-x.clamp(min=1))
    return torch.where(x > 1, large, small)


def phi(x: Tensor) -> Tensor:
    """The gain of a zero-order hold, accurate with all its derivatives at and near 0.

        phi(x) = (1 - exp(-x)) / x,   phi(0) = 1

    The quotient is NaN at 0, and its derivative cancels like eps / x nearby, so small arguments
    take the series sum_n (-x)^n / (n + 1)!. Each branch sees only arguments it can handle:
    a NaN that torch.where discards would still reach the gradient.

    Args:
        x: any shape, float32 or float64, no unit.

    Example:
        >>> phi(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        [1.0, 0.6321205588285577]
    """
    small = x.abs() < _SERIES_LIMIT
    near = torch.where(small, x, torch.zeros_like(x))
    far = torch.where(small, torch.ones_like(x), x)
    return torch.where(small, phi_series(near), complement(far) / far)


def phi_series(x: Tensor) -> Tensor:
    """sum_n (-x)^n / (n + 1)! for |x| <= 0.25, real or complex."""
    series = torch.ones_like(x)
    for n in range(_SERIES_TERMS, 0, -1):
        series = 1 - x / (n + 1) * series
    return series


def effective_rate(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """The rate a to put into the nonlinear step  h + dt * act(e - a h).

    Args:
        rate: any shape, float32 or float64, 1 / time.
        dt: step, time.
        discretization: "exact" or "euler".

    Returns:
        a, the shape and dtype of `rate`, 1 / time.

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> effective_rate(torch.tensor([2.0]), 0.5, "euler").tolist()
        [2.0]
    """
    return complement(dt * rate) / dt if is_exact(discretization) else rate


def linear_decay(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """The decay l of the linear step  l h + g e; arguments, shapes and errors of `effective_rate`.

    Example:
        >>> linear_decay(torch.tensor([0.5]), 0.5, "euler").tolist()
        [0.75]
    """
    return torch.exp(-dt * rate) if is_exact(discretization) else 1 - dt * rate


def linear_gain(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """The gain g of the linear step  l h + g e, time; otherwise as `linear_decay`.

    Example:
        >>> linear_gain(torch.tensor([0.0]), 0.5, "exact").tolist()
        [0.5]
    """
    return dt * phi(dt * rate) if is_exact(discretization) else torch.full_like(rate, dt)


def effective_matrix(matrix: Tensor, dt: float, discretization: str) -> Tensor:
    """The matrix A to put into the nonlinear step  h + dt * act(e - A h), so that I - dt A is the decay.

    "exact": A = (I - exp(-dt W)) / dt. Where every dt * W is small its last digits cancel, an error of one rounding of
    1 / dt; the eigenvalues of dt A lie inside the unit circle around 1 if those of W have positive real parts.

    Args:
        matrix: W, (D, D), float32 or float64, 1 / time.
        dt: step, time.
        discretization: "exact" or "euler".

    Returns:
        A, (D, D), 1 / time.

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> effective_matrix(torch.tensor([[2.0]]), 0.5, "euler").tolist()
        [[2.0]]
    """
    if not is_exact(discretization):
        return matrix
    return (torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) - torch.matrix_exp(-dt * matrix)) / dt


def matrix_gain(matrix: Tensor, dt: float, discretization: str) -> Tensor:
    """The gain G of the linear step  (I - dt A) h + G e: "exact" dt phi(dt W), "euler" dt I; otherwise as above.

    phi needs no inverse of W: it is a block of the exponential of [[-dt W, I], [0, 0]].
    Source: C. Van Loan, "Computing integrals involving the matrix exponential", IEEE TAC 23(3), 1978.

    Example:
        >>> matrix_gain(torch.tensor([[0.0]]), 0.5, "exact").tolist()
        [[0.5]]
    """
    size = len(matrix)
    eye = torch.eye(size, dtype=matrix.dtype, device=matrix.device)
    if not is_exact(discretization):
        return dt * eye
    block = torch.cat((torch.cat((-dt * matrix, eye), 1), torch.zeros_like(torch.cat((matrix, eye), 1))))
    return dt * torch.matrix_exp(block)[:size, size:]


def is_exact(discretization: str) -> bool:
    """Whether this is "exact" rather than "euler".

    Raises:
        ValueError: neither of them.
    """
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization must be one of {DISCRETIZATIONS}, got {discretization!r}")
    return discretization == "exact"
