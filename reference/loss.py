"""Errors between sequences: the temporally weighted one of the paper's experiments, the plain one, the largest one."""

import torch
from torch import Tensor


def temporal_weights(length: int) -> Tensor:
    """Weights of the time steps. Late steps count more; the mean weight is 1.

        v_k = ((k + 1) / (T + 1))^2 * T / sum_j ((j + 1) / (T + 1))^2

    Returns:
        (T,) float64.

    Example:
        >>> temporal_weights(2).tolist()
        [0.4, 1.6]
    """
    squares = torch.arange(1, length + 1, dtype=torch.float64) ** 2
    return squares * length / squares.sum()


def tail_weights(length: int) -> Tensor:
    """Weight of lag s in the error on white inputs, V_s = sum_{k >= s} v_k^2 / T.

    Returns:
        (T,) float64.
    """
    return (temporal_weights(length) ** 2 / length).flip(0).cumsum(0).flip(0)


def temporally_weighted_mse(prediction: Tensor, target: Tensor) -> Tensor:
    """The paper's loss, mean((v_k yhat - v_k y)^2) over batch, time and outputs.

    The weights v of `temporal_weights` enter squared: the squared error of step k counts (k + 1)^4.

    Args:
        prediction: yhat, (B, T, p).
        target: y, (B, T, p).

    Returns:
        Scalar in the dtype of the arguments.
    """
    weights = temporal_weights(prediction.shape[1]).to(prediction)
    return ((weights[:, None] * (prediction - target)) ** 2).mean()


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Plain mean((yhat - y)^2) over batch, time and outputs, (B, T, p) both."""
    return ((prediction - target) ** 2).mean()


def sup_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Largest |yhat - y| over batch, time and outputs, (B, T, p) both; NaN when any entry is."""
    return (prediction - target).abs().max()
