"""The temporally weighted mean squared error of the paper's experiments, and other weights of time steps.

Late time steps count more: they are the ones that need memory.
"""

import math

import torch
from torch import Tensor

from cofm_triton.support.scalars import check_int, check_not_negative
from cofm_triton.support.tensors import check_real_tensor, check_tensor


def temporal_weights(
    length: int, *, dtype: torch.dtype = torch.float64, device: torch.device | str | None = None
) -> Tensor:
    """v_k = ((k + 1) / (T + 1))^2 * T / sum_j ((j + 1) / (T + 1))^2, k = 0..T-1; their mean is 1.

    Source: arXiv 2305.19190, its code's loss.

    Args:
        length: T >= 0.
        dtype: of the result; the weights are computed in float64.
        device: of the result.

    Returns:
        (T,), no unit.

    Raises:
        TypeError: `length` is not an int, or `dtype` not a floating-point dtype.
        ValueError: `length` is negative.

    Example:
        >>> temporal_weights(2).tolist()
        [0.4, 1.6]
    """
    length = check_int("length", length)
    _check_dtype(dtype)
    squares = torch.arange(1, length + 1, dtype=torch.float64, device=device) ** 2
    return (squares * length / squares.sum()).to(dtype)


def rescaled_weights(
    length: int,
    *,
    power: float = 0.0,
    rate: float = 0.0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str | None = None,
) -> Tensor:
    """w_k proportional to ((k + 1) / T)^power e^(rate (k + 1 - T)), k = 0..T-1; their sum is 1.

    A family of weights of squared errors, `E = sum_k w_k mean((yhat_k - y_k)^2)`, for
    `perturbation_error(metric=...)`: power 0 is the mean squared error, 4 the temporally weighted one (but for a
    factor), infinity the last step alone. What each does to long memories: `memory_bias`.

    Source: arXiv 2307.11462 (errors rescaled in time).

    Args:
        length: T >= 1.
        power: >= 0, infinity too.
        rate: >= 0, 1 / steps: steps further from the end than a few 1 / rate count for little.
        dtype: of the result; the weights are computed in float64.
        device: of the result.

    Returns:
        (T,), no unit.

    Raises:
        TypeError: an argument of the wrong type.
        ValueError: `length` below 1, `power` or `rate` negative or NaN, or `rate` infinite.

    Example:
        >>> rescaled_weights(2, power=2).tolist()
        [0.2, 0.8]
    """
    length = check_int("length", length, 1)
    power, rate = check_not_negative("power", power, finite=False), check_not_negative("rate", rate)
    _check_dtype(dtype)
    steps = torch.arange(1, length + 1, dtype=torch.float64, device=device)
    weights = (steps / length) ** power * torch.exp(rate * (steps - length))
    return (weights / weights.sum()).to(dtype)


def memory_bias(weights: Tensor) -> Tensor:
    """How much lag s of a linear functional counts beside lag 0: sum_{k >= s} w_k / sum_k w_k.

    On white inputs a kernel that is off by e_s has the error sum_s e_s^2 sum_{k >= s} w_k: only the steps from s on see
    what happened s steps before. So every error with non-negative weights is biased towards short memory, but for the
    last step alone, which counts all lags alike. With power p of `rescaled_weights` the share is about
    1 - (s / T)^(p + 1), a half at the lag T / 2^(1 / (p + 1)): 0.5 T for the mean squared error, 0.87 T for power 4.

    Source: arXiv 2307.11462, which shows the bias of positive weights.

    Args:
        weights: (T,) w_k, those of squared errors: of `temporal_weights` v_k, the squares.

    Returns:
        (T,), in the weights' dtype, from 1 down.

    Raises:
        TypeError: `weights` is no floating-point tensor.
        ValueError: not one-dimensional, empty, negative, not finite, or all zero.

    Example:
        >>> memory_bias(rescaled_weights(4)).tolist()
        [1.0, 0.75, 0.5, 0.25]
    """
    check_weights("weights", weights)
    tail = weights.flip(0).cumsum(0).flip(0)
    return tail / tail[0]


def check_weights(name: str, weights: object, length: int | None = None) -> Tensor:
    """Weights of time steps, as they are.

    Args:
        name: of the argument.
        weights: (T,).
        length: T, where it is known.

    Raises:
        TypeError, ValueError: as for `memory_bias`, or another length.
    """
    weights = check_real_tensor(name, weights)
    if weights.dim() != 1 or len(weights) != (length or len(weights)) or not len(weights):
        wanted = "(T,)" if length is None else f"(T,) = ({length},)"
        raise ValueError(f"{name} must have the shape {wanted}, got {tuple(weights.shape)}")
    total = float(weights.sum())
    if not bool((weights >= 0).all()) or not 0 < total < math.inf:
        raise ValueError(f"{name} must be finite, none negative and not all zero")
    return weights


def temporally_weighted_mse(y_hat: Tensor, y: Tensor) -> Tensor:
    """mean((v_k yhat_k - v_k y_k)^2) over sequences, time and outputs, v from `temporal_weights`.

    The weights enter squared: the squared error of step k counts (k + 1)^4.
    Source: arXiv 2305.19190, its code's loss.

    Args:
        y_hat: predictions, (N, T, p).
        y: targets, (N, T, p).

    Returns:
        Scalar; float32 for 16-bit arguments, whose squares would overflow, else their dtype.

    Raises:
        TypeError: an argument is no floating-point tensor, or their dtypes differ.
        ValueError: an argument is not 3-dimensional, or their shapes or devices differ.

    Example:
        >>> temporally_weighted_mse(torch.ones(1, 2, 1), torch.zeros(1, 2, 1)).item()
        1.3600001335144043
    """
    _check_pair(y_hat, y)
    working = torch.promote_types(y.dtype, torch.float32)
    weights = temporal_weights(y.shape[1], dtype=working, device=y.device)
    error = y_hat.to(working) - y.to(working)
    return (weights[:, None] * error).square().mean()


def _check_dtype(dtype: torch.dtype) -> None:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point torch.dtype, got {dtype!r}")


def _check_pair(y_hat: Tensor, y: Tensor) -> None:
    for argument, value in (("y_hat", y_hat), ("y", y)):
        check_tensor(argument, value)
        if not value.is_floating_point():
            raise TypeError(f"{argument} must have a real floating-point dtype, got {value.dtype}")
        if value.dim() != 3:
            raise ValueError(f"{argument} must have the shape (N, T, p), got {tuple(value.shape)}")
    if y_hat.shape != y.shape:
        raise ValueError(f"y_hat must have the shape of y, {tuple(y.shape)}, got {tuple(y_hat.shape)}")
    if y_hat.dtype != y.dtype:
        raise TypeError(f"y_hat must have the dtype of y, {y.dtype}, got {y_hat.dtype}")
    if y_hat.device != y.device:
        raise ValueError(f"y_hat must be on the device of y, {y.device}, got {y_hat.device}")
