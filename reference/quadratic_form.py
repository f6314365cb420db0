"""The error of a linear model as a quadratic form in its kernel.

With channels (x_1, ..., x_d, 1), the last one carrying the biases, and z the difference between
the model's and the target's kernels, the temporally weighted MSE is, for every output,

    E = z^T G z,   G[(p, s), (q, s')] = sum_{k >= max(s, s')} (v_k^2 / T) R[(p, k - s), (q, k - s')]

where R holds the second moments of the channels. G depends on the inputs alone, so the error of
any number of models costs nothing per sequence. Never expand the square: z is small, its parts
are not.
"""

import torch
from torch import Tensor

from .linear_kernel import linear_kernel
from .loss import temporal_weights
from .model import Dynamics, Parameters


def response(params: Parameters, length: int, dynamics: Dynamics) -> Tensor:
    """Kernel of the model over the channels (x, 1), the read-out bias at lag 0 of the last one.

    Returns:
        (p, d + 1, T).

    Raises:
        ValueError: the activation is not linear.
    """
    kappa, kb = linear_kernel(params, length, dynamics)
    if "readout.bias" in params:
        at_zero = (torch.arange(length, device=kb.device) == 0).to(kb.dtype)
        kb = kb + params["readout.bias"][:, None] * at_zero
    return torch.cat([kappa, kb[:, None]], 1)


def mismatch(model: Tensor, target: Tensor) -> Tensor:
    """Difference of kernels z = [kappa - rho; kb]: the target has no bias channel.

    Args:
        model: (p, d + 1, T), from `response`.
        target: broadcastable to (p, d, T), the target's kernel rho.
    """
    return torch.cat([model[:, :-1] - target, model[:, -1:]], 1)


def sample_moments(inputs: Tensor) -> Tensor:
    """R[(p, i), (q, j)] = mean_n of X_p[n, i] X_q[n, j] over the channels (x, 1).

    Args:
        inputs: (N, T, d).

    Returns:
        (d + 1, T, d + 1, T).
    """
    channels = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
    return torch.einsum("nip,njq->piqj", channels, channels) / len(inputs)


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
        moments: (C, T, C, T), from `sample_moments` or `population_moments`.

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
        z: (p, C, T), from `mismatch`.
        form: (C, T, C, T), from `gram`.

    Returns:
        Scalar.
    """
    return torch.einsum("ops,psqt,oqt->", z, form, z) / len(z)


def cross_moment(inputs: Tensor, targets: Tensor) -> Tensor:
    """r[p, s] = sum_{k, n} v_k^2 X_p[n, k - s] y[n, k] / (N T) of an arbitrary target.

    Args:
        inputs: (N, T, d).
        targets: (N, T, p).

    Returns:
        (p, d + 1, T).
    """
    count, length, _ = inputs.shape
    channels = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
    weighted = temporal_weights(length).to(inputs)[:, None] ** 2 * targets / (count * length)
    lags = [torch.einsum("nkp,nko->op", channels[:, : length - s], weighted[:, s:]) for s in range(length)]
    return torch.stack(lags, 2)


def arbitrary_target_error(model: Tensor, form: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Error z^T G z - 2 r^T z + mean (v y)^2 against targets that no kernel describes.

    The terms cancel when the fit is good: use `mismatch` wherever the target's kernel is known.

    Args:
        model: (p, d + 1, T), from `response`.
        form: (d + 1, T, d + 1, T), from `gram(sample_moments(inputs))`.
        inputs: (N, T, d).
        targets: (N, T, p).

    Returns:
        Scalar.
    """
    weights = temporal_weights(inputs.shape[1]).to(inputs)[:, None]
    cross = (cross_moment(inputs, targets) * model).sum() / len(model)
    return quadratic_error(model, form) - 2 * cross + ((weights * targets) ** 2).mean()
