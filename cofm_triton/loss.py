"""The temporally weighted mean squared error of the paper's experiments.

Late time steps count more: they are the ones that need memory.
"""

import torch
from torch import Tensor

from cofm_triton.support.scalars import check_int
from cofm_triton.support.tensors import check_tensor


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
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a real floating-point torch.dtype, got {dtype!r}")
    squares = torch.arange(1, length + 1, dtype=torch.float64, device=device) ** 2
    return (squares * length / squares.sum()).to(dtype)


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
