"""The error of a linear model as a quadratic form: exact, and independent of the data's size.

A linear model is its kernel: y[k] = sum_{s <= k} sum_c kernel[c, s] x_c[k - s], where the last
channel is the constant input 1. With
z = kernel - centre, for any fixed centre, the weighted mean squared error over the data is

    E = floor + z^T G z - 2 g^T z
    G[(c, s), (c', s')] = sum_{k >= max(s, s')} (v_k^2 / T) R_cc'[k - s, k - s']
    g[(c, s)]           = sum_k (v_k^2 / T) mean_n x_c[n, k - s] e[n, k]
    floor               = sum_k (v_k^2 / T) mean_n e[n, k]^2

where R is the matrix of second moments of the inputs and e the residual of the centre. The centre
is the least-squares kernel (or the target's own kernel, when it is known), so g and floor are
tiny and nothing cancels: never the expanded square, where E is a difference of numbers as large
as the target. After one look at the data, a model costs O((d T)^2), however many the sequences.

Source: arXiv 2305.19190, Definition 3.4, for linear functionals.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cofm_triton.loss import temporal_weights
from cofm_triton.stacked import StackedCells, impulse_response

_CHUNK_NUMBERS = 4_000_000  # numbers in the largest temporary: 32 MB
_RELATIVE_CUTOFF = 1e-12  # eigenvalues of G below this share of the largest count as zero


def step_weights(length: int, metric: str) -> Tensor:
    """v_k^2 / T, (T,) float64: temporal weights for metric "twe", v = 1 for "mse".

    Raises:
        ValueError: metric has no weights.
    """
    if metric == "mse":
        return torch.full((length,), 1.0 / length, dtype=torch.float64)
    if metric == "twe":
        return temporal_weights(length).double().cpu() ** 2 / length
    raise ValueError(f"metric must be 'twe' or 'mse' for a quadratic form, got {metric!r}")


@dataclass(frozen=True)
class QuadraticForm:
    """E as a function of the kernel; see the module's equations.

    Attributes:
        gram: ((d + 1) T, (d + 1) T), G; channels are the slow index.
        centre: (p, (d + 1) T).
        slope: (p, (d + 1) T), g.
        floor: (p,), error of the centre.
        length: T.
    """

    gram: Tensor
    centre: Tensor
    slope: Tensor
    floor: Tensor
    length: int

    @classmethod
    def from_data(
        cls, inputs: Tensor, targets: Tensor, *, metric: str = "twe", centre: Tensor | None = None
    ) -> "QuadraticForm":
        """Quadratic form of the error over given sequences.

        Args:
            inputs: (N, T, d).
            targets: (N, T, p).
            metric: "twe" or "mse".
            centre: (p, d + 1, T), the target's kernel if it is known (it saves a decomposition
                of G, and the result does not depend on it but for rounding).

        Example:
            >>> x = torch.randn(50, 8, 1, dtype=torch.float64)
            >>> form = QuadraticForm.from_data(x, 2 * x, metric="mse")
            >>> zero = form(torch.zeros(1, 1, 2, 8, dtype=torch.float64))
            >>> bool(torch.isclose(zero[0], (4 * x**2).mean()))
            True
        """
        channels, targets = _with_constant(inputs), targets.detach().double()
        weights = step_weights(inputs.shape[1], metric).to(channels.device)
        gram = _gram(channels, weights)
        if centre is None:
            kernel = _least_squares(gram, _cross(channels, targets, weights))
        else:
            kernel = centre.double().to(channels.device).flatten(1)
        residual = targets - _response(kernel, channels)
        slope = _cross(channels, residual, weights)
        floor = torch.einsum("k,nkp->p", weights, residual**2) / len(channels)
        return cls(gram, kernel, slope, floor, inputs.shape[1])

    @classmethod
    def population(cls, kernel: Tensor, *, metric: str = "twe") -> "QuadraticForm":
        """Quadratic form of the expected error on white inputs of unit variance.

            E = sum_s V_s |kappa_s - rho_s|^2 + sum_ss' V_max(s, s') kb_s kb_s'
            V_s = sum_{k >= s} v_k^2 / T

        Args:
            kernel: (p, d, T), the target's kernel rho.
            metric: "twe" or "mse".
        """
        outputs, inputs, length = kernel.shape
        tail = step_weights(length, metric).to(kernel.device).flip(0).cumsum(0).flip(0)
        later = torch.arange(length, device=kernel.device)
        constant = tail[torch.maximum(later[:, None], later)]
        gram = torch.block_diag(*([torch.diag(tail)] * inputs), constant)
        centre = torch.cat((kernel.double(), kernel.new_zeros(outputs, 1, length).double()), 1)
        zero = centre.new_zeros(outputs)
        return cls(gram, centre.flatten(1), torch.zeros_like(centre.flatten(1)), zero, length)

    def __call__(self, kernels: Tensor) -> Tensor:
        """Errors, mean over outputs: (K, p, d + 1, T) float64 -> (K,), differentiable."""
        gap = kernels.flatten(2) - self.centre
        quadratic = ((gap @ self.gram) * gap).sum(-1)
        return (self.floor + quadratic - 2 * (gap * self.slope).sum(-1)).mean(-1)

    def errors(self, cells: StackedCells) -> Tensor:
        """Errors of K linear models, (K,) float64; not finite where a power overflows.

        Models are taken a few at a time so that memory does not grow with K.
        """
        per_model = (cells.rate.shape[1] + 3 * self.centre.numel() // self.length) * self.length
        return in_chunks(cells, max(1, _CHUNK_NUMBERS // per_model), self._errors)

    def _errors(self, cells: StackedCells) -> Tensor:
        return self(impulse_response(cells, self.length))


def in_chunks(cells: StackedCells, size: int, compute: Callable[[StackedCells], Tensor]) -> Tensor:
    """Concatenate `compute` over consecutive runs of at most `size` models."""
    starts = range(0, cells.count, size)
    return torch.cat([compute(cells[start : start + size]) for start in starts])


def _with_constant(inputs: Tensor) -> Tensor:
    """(N, T, d) -> (N, T, d + 1) float64, the last channel 1."""
    return torch.nn.functional.pad(inputs.detach().double(), (0, 1), value=1.0)


def _gram(channels: Tensor, weights: Tensor) -> Tensor:
    """G from the second moments of the channels: (N, T, C) -> (C T, C T)."""
    count, length, width = channels.shape
    flat = channels.transpose(1, 2).reshape(count, width * length)
    moments = (flat.T @ flat / count).view(width, length, width, length).flip(1, 3)
    gram = moments.new_zeros(width, length, width, length)
    for k in range(length):  # flipped: index T - 1 - k + s is step k - s
        first = length - 1 - k
        gram[:, : k + 1, :, : k + 1] += weights[k] * moments[:, first:, :, first:]
    return gram.view(width * length, width * length)


def _cross(channels: Tensor, outputs: Tensor, weights: Tensor) -> Tensor:
    """sum_k w_k mean_n x_c[n, k - s] y_p[n, k]: (N, T, C), (N, T, P) -> (P, C T)."""
    count, length = channels.shape[:2]
    weighted = outputs * weights[:, None] / count
    moments = torch.einsum("nkp,njc->pckj", weighted, channels)
    lags = [torch.diagonal(moments, -s, 2, 3).sum(-1) for s in range(length)]
    return torch.stack(lags, -1).flatten(1)


def _least_squares(gram: Tensor, cross: Tensor) -> Tensor:
    """The smallest kernel that minimises the error, (P, C T)."""
    values, vectors = torch.linalg.eigh(gram)
    keep = values > _RELATIVE_CUTOFF * values[-1]
    scaled = (cross @ vectors)[:, keep] / values[keep]
    return scaled @ vectors[:, keep].T


def _response(kernel: Tensor, channels: Tensor) -> Tensor:
    """y[n, k, p] = sum_{c, s <= k} kernel[p, (c, s)] x_c[n, k - s]."""
    length, width = channels.shape[1:]
    steps = torch.arange(length, device=kernel.device)
    lag = steps[:, None] - steps
    lags = kernel.view(-1, width, length)[..., lag.clamp(min=0)]
    toeplitz = torch.where(lag >= 0, lags, lags.new_zeros(()))
    return torch.einsum("pckj,njc->nkp", toeplitz, channels)
