"""The four recurrent cells of the paper's code, in its own discretisation (Euler).

All read e = U x + b and start from h = 0. P is initialised orthogonal and then trained freely, so
W = -P^T diag(rate) P is not a similarity transform of the rates in general.

    diagonal      h += dt act(e - relu(w) h)                                    (diagonalrnn)
    rnn           h += dt act(e - P^T diag(relu(w)) P h)
    softplusrnn   h += dt act(e - P^T diag(softplus(w)) P h)
    lru           h += dt act(sqrt(1 - a^2) e - a h),   a = 1 - exp(-exp(w))

To be perturbed, the first two take the rate instead of w: relu(w) + noise, which may be negative.
"""

from torch import Tensor

from .dense_rnn import dense_rnn
from .parameterization import lru_normalization, parameterization
from .rnn_scan import rnn_scan


def congruence(rate: Tensor, basis: Tensor) -> Tensor:
    """P^T diag(rate) P: rate (D,), basis P (D, D), result (D, D)."""
    return basis.T @ (rate[:, None] * basis)


def diagonal_cell(e: Tensor, rate: Tensor, *, dt: float, nonlinearity: str) -> Tensor:
    """States (B, T, D) of h += dt act(e - rate h); rate = relu(w) as trained."""
    return rnn_scan(e, rate, dt=dt, nonlinearity=nonlinearity)[0]


def rotated_cell(e: Tensor, rate: Tensor, basis: Tensor, *, dt: float, nonlinearity: str) -> Tensor:
    """States (B, T, D) of h += dt act(e - P^T diag(rate) P h).

    rate = relu(w) as trained for "rnn", softplus(w) for "softplusrnn".
    """
    return dense_rnn(e, congruence(rate, basis), dt=dt, nonlinearity=nonlinearity)[0]


def lru_cell(e: Tensor, w: Tensor, *, dt: float, nonlinearity: str) -> Tensor:
    """States (B, T, D) of h += dt act(sqrt(1 - a^2) e - a h), a = 1 - exp(-exp(w))."""
    rate = parameterization("lru").rate(w)
    return rnn_scan(lru_normalization(w) * e, rate, dt=dt, nonlinearity=nonlinearity)[0]
