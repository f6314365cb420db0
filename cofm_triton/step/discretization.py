"""From the rate of  dh/dt = -rate * h + e  to one step of length dt.

The nonlinear step is  h' = h + dt * act(e - a h), the linear one  h' = l h + g e, with

    discretization   effective rate a           decay l           gain g
    "euler"          rate                       1 - dt rate       dt
    "exact"          (1 - exp(-dt rate)) / dt   exp(-dt rate)     dt phi(dt rate)

and phi(x) = (1 - exp(-x)) / x. "euler" is the scheme of the paper's code (arXiv 2305.19190, eq 1),
stable only while 0 < dt * rate < 2. "exact" is stable for every positive rate; its linear step is
the true solution over one step with e held constant (zero-order hold).

A matrix W takes the place of the rates in  dh/dt = -W h + e : a and g become matrices, `effective_matrix` and
`matrix_step`, with the matrix exponential in place of exp, and the linear step is again  h' = h + dt (g/dt e - a h).

Errors are given in roundings, eps = 2^-23 in float32 and 2^-52 in float64, relative to the exact value for the rate
that is handed in; those of values hold for derivatives by the rate as well unless these have their own. Every bound is
times 1 + dt * rate, the sensitivity of exp(-dt * rate) to a rounding of its argument.
"""

import torch
from torch import Tensor

from cofm_triton.step.wide import widened

DISCRETIZATIONS = ("exact", "euler")

_SERIES_LIMIT = 1.0
_SERIES_TERMS = 18  # the first term left out, 1 / 20!, is below 1e-18


def complement(x: Tensor) -> Tensor:
    """1 - exp(-x) to 1 rounding of itself, and its derivatives exp(-x) and -exp(-x) to 1 of themselves.

    Autograd takes the derivative of expm1 from its result, which cancels once exp(-x) is small, so
    large arguments go the direct way. Each branch sees only arguments it can handle. `where` cuts them
    off, because the derivative of clamp at its limit is 1 in PyTorch 2.13 and 0 in PyTorch 2.14.

    Args:
        x: any shape, float32 or float64, no unit.

    Example:
        >>> complement(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist()
        [0.0, 0.6321205588285577]
    """
    far = x > 1
    small = -torch.expm1(-torch.where(far, 1.0, x))
    large = 1 - torch.exp(-torch.where(far, x, 1.0))
    return torch.where(far, large, small)


def phi(x: Tensor) -> Tensor:
    """The gain of a zero-order hold, to 2 roundings, its first derivative to 4 and its second to 16.

        phi(x) = (1 - exp(-x)) / x,   phi(0) = 1

    The quotient is NaN at 0, and its n-th derivative cancels like eps / x^n nearby, so arguments
    below 1 take the series sum_n (-x)^n / (n + 1)!. Each branch sees only arguments it can handle:
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
    """The rate a to put into the nonlinear step  h + dt * act(e - a h), to 2 roundings.

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
    """The decay l of the linear step  l h + g e, to 2 roundings; arguments, shapes and errors of `effective_rate`.

    What l says of a slow rate is less: next to 1 its rounding is one of eps / (2 dt rate) of the rate, 0.06 where
    dt * rate = 1e-6 in float32. A recurrence that needs more takes `effective_rate`, or float64.

    Example:
        >>> linear_decay(torch.tensor([0.5]), 0.5, "euler").tolist()
        [0.75]
    """
    return torch.exp(-dt * rate) if is_exact(discretization) else 1 - dt * rate


def linear_gain(rate: Tensor, dt: float, discretization: str) -> Tensor:
    """The gain g of the linear step  l h + g e, time, to 2 roundings, its first derivative to 4 and its second to 16.

    Otherwise as `linear_decay`.

    Example:
        >>> linear_gain(torch.tensor([0.0]), 0.5, "exact").tolist()
        [0.5]
    """
    return dt * phi(dt * rate) if is_exact(discretization) else torch.full_like(rate, dt)


def effective_matrix(matrix: Tensor, dt: float, discretization: str) -> Tensor:
    """The matrix A to put into the nonlinear step  h + dt * act(e - A h), so that I - dt A is the decay.

    "exact": A = (I - exp(-dt W)) / dt. The eigenvalues of dt A lie inside the unit circle around 1 if those of W have
    positive real parts.

    It is formed in float64 (see `wide.py`) and rounded once: every entry of a float32 A is right to one rounding, with
    an error of some 1e-16 / dt besides, because the difference cancels where dt * W is small. A unit much slower than
    the others has no more digits in A than its share of the largest entries leaves.

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
    wide = widened(matrix)
    eye = torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    return ((eye - _exponential(-dt * wide)) / dt).to(matrix.dtype)


def matrix_step(matrix: Tensor, encoder: Tensor, dt: float, discretization: str) -> tuple[Tensor, Tensor]:
    """A and U' of the linear step  h + dt (U' x - A h)  of  dh/dt = -W h + U x : "exact" U' = phi(dt W) U, "euler" U.

    phi needs no inverse of W: with exp(-dt W) it is a part of the exponential of [[-dt W, U], [0, 0]], which is little
    larger than W. Formed in float64 (see `wide.py`) and rounded once; A as in `effective_matrix`.
    Source: C. Van Loan, "Computing integrals involving the matrix exponential", IEEE TAC 23(3), 1978.

    Args:
        matrix: W, (D, D), float32 or float64, 1 / time.
        encoder: U, (D, n), the same dtype.
        dt: step, time.
        discretization: "exact" or "euler".

    Returns:
        A, (D, D), 1 / time, and U', (D, n).

    Raises:
        ValueError: unknown discretization.

    Example:
        >>> a, u = matrix_step(torch.tensor([[0.0]]), torch.tensor([[2.0]]), 0.5, "exact")
        >>> a.tolist(), u.tolist()
        ([[0.0]], [[2.0]])
    """
    if not is_exact(discretization):
        return matrix, encoder
    size, wide, driven = len(matrix), widened(matrix), widened(encoder)
    # A large U would make the exponential square more often than W needs, at the expense of A's digits.
    scale = driven.detach().abs().sum(0).amax().clamp(min=torch.finfo(driven.dtype).tiny)
    made = _exponential(torch.cat((-dt * wide, driven / scale), 1))
    eye = torch.eye(size, dtype=wide.dtype, device=wide.device)
    return ((eye - made[:, :size]) / dt).to(matrix.dtype), (scale * made[:, size:]).to(encoder.dtype)


def _exponential(rows: Tensor) -> Tensor:
    """The upper rows exp(Z), phi(-Z) V of the exponential of [[Z, V], [0, 0]], from Z, V: (D, D + n).

    One more column with a single 1 keeps the norm of the matrix, and of its transpose in derivatives, at 1 at least:
    for smaller ones PyTorch's polynomial of degree 8 has a wrong coefficient, with an error of 1e-10 in float64
    (github.com/pytorch/pytorch/issues/196592).
    """
    size, columns = rows.shape
    wide = torch.cat((rows, torch.eye(size, 1, dtype=rows.dtype, device=rows.device)), 1)
    square = torch.cat((wide, wide.new_zeros(columns + 1 - size, columns + 1)))
    return torch.matrix_exp(square)[:size, :columns]


def is_exact(discretization: str) -> bool:
    """Whether this is "exact" rather than "euler".

    Raises:
        ValueError: neither of them.
    """
    if discretization not in DISCRETIZATIONS:
        raise ValueError(f"discretization must be one of {DISCRETIZATIONS}, got {discretization!r}")
    return discretization == "exact"
