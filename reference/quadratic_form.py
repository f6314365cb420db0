"""The error of a linear model as a quadratic form in its kernel.

With channels (x_1, ..., x_d, 1), the last one carrying the biases, and z the difference between
the model's and the target's kernels, the temporally weighted MSE is, for every output,

    E = z^T G z,   G[(p, s), (q, s')] = sum_{k >= max(s, s')} (v_k^2 / T) R[(p, k - s), (q, k - s')]

where R holds the second moments of the channels. G depends on the inputs alone: with G known, the error of a model
costs the same for any number of sequences. Never expand the square: z is small, its parts are not.
"""

import torch
from torch import Tensor

from .loss import temporal_weights


def population_moments(length: int, input_size: int = 1, std: float = 1.0) -> Tensor:
    """The moments of white inputs of mean 0 and standard deviation `std`, float64.

    Returns:
        (d + 1, T, d + 1, T).
    """
    same = torch.eye(length, dtype=torch.float64)
    moments = torch.zeros(input_size + 1, length, input_size + 1, length, dtype=torch.float64)
    for p in range(input_size):
        moments[p, :, p, :] = std**2 * same
    moments[-1, :, -1, :] = 1.0
    return moments


def gram(moments: Tensor) -> Tensor:
    """G, summed over the output times k as in the definition.

    Args:
        moments: (C, T, C, T), R.

    Returns:
        (C, T, C, T), symmetric: G[p, s, q, s'] = G[q, s', p, s].
    """
    length = moments.shape[1]
    weights = temporal_weights(length).to(moments) ** 2 / length
    total = torch.zeros_like(moments)
    for k in range(length):
        lags = slice(0, k + 1)  # lag s sees the input at k - s
        total[:, lags, :, lags] += weights[k] * moments[:, lags, :, lags].flip(1, 3)
    return total


def quadratic_error(z: Tensor, form: Tensor) -> Tensor:
    """E = z^T G z, averaged over the p outputs.

    Args:
        z: (p, C, T), the difference of kernels.
        form: (C, T, C, T), from `gram`.

    Returns:
        Scalar.
    """
    return torch.einsum("ops,psqt,oqt->", z, form, z) / len(z)
