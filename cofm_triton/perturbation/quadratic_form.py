"""The error of a linear model as a quadratic form: exact, and independent of the data's size.

A linear model is its kernel: y[k] = sum_{s <= k} sum_c kernel[c, s] x_c[k - s], where the last
channel is the constant input 1. With
z = kernel - centre, for any fixed centre, the weighted mean squared error over the data is

    E = floor + z^T G z - 2 g^T z
    G[(c, s), (c', s')] = sum_{k >= max(s, s')} (v_k^2 / T) R_cc'[k - s, k - s']
    g[(c, s)]           = sum_k (v_k^2 / T) mean_n x_c[n, k - s] e[n, k]
    floor               = sum_k (v_k^2 / T) mean_n e[n, k]^2

where R is the matrix of second moments of the inputs and e the residual of the centre. The centre
is the least-squares kernel of the first sequences (or the target's own kernel, when it is known), so
g and floor are tiny and nothing cancels: never the expanded square, where E is a difference of
numbers as large as the target. After one look at the data, a model costs O((d T)^2), however many the sequences.

Source: arXiv 2305.19190, Definition 3.4, for linear functionals.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cofm_triton.loss import check_weights, temporal_weights
from cofm_triton.step.stacked_cells import StackedCells, impulse_response
from cofm_triton.support.scalars import check_choice, check_int

QUADRATIC_METRICS = ("twe", "mse")

Loss = Callable[[Tensor, Tensor], Tensor]
Metric = str | Tensor | Loss
"""A name, weights (T,) of the steps' squared errors (`loss.rescaled_weights`), or a loss of outputs and targets."""

_CHUNK_NUMBERS = 1 << 17  # numbers in the largest temporary: 1 MB, which stays in the cache
_FITTED = 4  # sequences per number of the centre: it is any kernel next to the best one
# In traces of G. Where the data say nothing, the centre's numbers reach 1 / (2 sqrt(ridge)), and rounding leaves up to
# eps / (4 ridge) of the errors; a larger ridge moves the centre away from the best kernel, where terms cancel.
RIDGE = 1e-8


def step_weights(length: int, metric: Metric) -> Tensor:
    """w_k = v_k^2 / T, (T,) float64 on the CPU: temporal weights v for metric "twe", v = 1 for "mse"; or given w_k.

    Raises:
        TypeError: metric is neither a name nor floating-point weights.
        ValueError: metric has no weights, or those of another length, or negative ones.
    """
    length = check_int("length", length)
    if isinstance(metric, Tensor):
        return check_weights("metric", metric, length).detach().to("cpu", torch.float64)
    check_choice("metric", metric, QUADRATIC_METRICS)
    if metric == "mse":
        return torch.full((length,), 1.0 / length, dtype=torch.float64, device="cpu")
    return temporal_weights(length, device="cpu") ** 2 / length


def is_sup(metric: Metric) -> bool:
    """Whether a metric is the largest gap, no sum of squares."""
    return isinstance(metric, str) and metric == "sup"


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
        cls, inputs: Tensor, targets: Tensor, *, metric: Metric = "twe", centre: Tensor | None = None
    ) -> "QuadraticForm":
        """Quadratic form of the error over given sequences.

        Args:
            inputs: (N, T, d).
            targets: (N, T, p).
            metric: "twe", "mse", or weights (T,).
            centre: (p, d + 1, T), the target's kernel if it is known (it saves a decomposition
                of G, and the result does not depend on it but for rounding).

        Example:
            >>> x = torch.randn(50, 8, 1, dtype=torch.float64)
            >>> form = QuadraticForm.from_data(x, 2 * x, metric="mse")
            >>> zero = form(torch.zeros(1, 1, 2, 8, dtype=torch.float64))
            >>> bool(torch.isclose(zero[0], (4 * x**2).mean()))
            True
        """
        length = inputs.shape[1]
        weights = step_weights(length, metric).to(inputs.device)
        if centre is None:
            few = slice(0, _FITTED * (inputs.shape[2] + 1) * length)
            sums = _Sums.over(inputs[few], targets[few])
            kernel = _least_squares(sums.gram(weights), sums.cross(weights))
        else:
            kernel = centre.double().to(inputs.device).flatten(1)
        sums = _Sums.over(inputs, targets, kernel)
        return cls(sums.gram(weights), kernel, sums.cross(weights), sums.squares(weights), length)

    @classmethod
    def population(cls, kernel: Tensor, *, metric: Metric = "twe") -> "QuadraticForm":
        """Quadratic form of the expected error on white inputs of unit variance.

            E = sum_s V_s |kappa_s - rho_s|^2 + sum_ss' V_max(s, s') kb_s kb_s'
            V_s = sum_{k >= s} v_k^2 / T

        Args:
            kernel: (p, d, T), the target's kernel rho.
            metric: "twe", "mse", or weights (T,).
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
        # Of a perfect model rounding may leave less than nothing.
        return (self.floor + quadratic - 2 * (gap * self.slope).sum(-1)).mean(-1).clamp(min=0)

    def errors(self, cells: StackedCells) -> Tensor:
        """Errors of K linear models, (K,) float64; not finite where a power overflows.

        Models are taken a few at a time so that memory does not grow with K.
        """
        kernels = self.centre.numel()
        powers = self.length if cells.is_dense else math.isqrt(self.length) + 1
        units = cells.rate.shape[1] * (2 if cells.is_complex else 1)
        per_model = units * powers * (2 + kernels // self.length) + 3 * kernels
        return in_chunks(cells, max(1, _CHUNK_NUMBERS // per_model), self._errors)

    def _errors(self, cells: StackedCells) -> Tensor:
        return self(impulse_response(cells, self.length))


def in_chunks(cells: StackedCells, size: int, compute: Callable[[StackedCells], Tensor]) -> Tensor:
    """Concatenate `compute` over consecutive runs of at most `size` models."""
    starts = range(0, cells.count, size)
    return torch.cat([compute(cells[start : start + size]) for start in starts])


@dataclass(frozen=True)
class _Sums:
    """Sums over the sequences of the data: x_c[k] their inputs, e_p[k] what a kernel leaves of their targets.

    Attributes:
        count: of sequences.
        x: (d, T).
        xx: (d, T, d, T).
        e: (P, T).
        ex: (P, T, d, T).
        ee: (P, T), of squares.
    """

    count: int
    x: Tensor
    xx: Tensor
    e: Tensor
    ex: Tensor
    ee: Tensor

    @classmethod
    def over(cls, inputs: Tensor, targets: Tensor, kernel: Tensor | None = None) -> "_Sums":
        """One look at inputs (N, T, d) and targets (N, T, P), in float64, a few sequences at a time.

        Args:
            inputs: as above.
            targets: as above.
            kernel: (P, (d + 1) T); None: zero.
        """
        (count, length, width), outputs = inputs.shape, targets.shape[2]
        size, answered = width * length, outputs * length
        zeros = partial(torch.zeros, dtype=torch.float64, device=inputs.device)
        x, xx, e, ex, ee = zeros(size), zeros(size, size), zeros(answered), zeros(answered, size), zeros(answered)
        response = None if kernel is None else _response(kernel, length)
        together = max(1, _CHUNK_NUMBERS // max(size, answered))
        for some, wanted in zip(inputs.detach().split(together), targets.detach().split(together), strict=True):
            flat, residual = (value.double().transpose(1, 2).flatten(1) for value in (some, wanted))
            if response is not None:
                matrix, offset = response
                residual = torch.addmm(residual, flat, matrix, alpha=-1).sub_(offset)
            x += flat.sum(0)
            xx.addmm_(flat.T, flat)
            e += residual.sum(0)
            ex.addmm_(residual.T, flat)
            ee += residual.square().sum(0)
        first, second = x.view(width, length), xx.view(width, length, width, length)
        return cls(
            count, first, second, e.view(outputs, length), ex.view(outputs, length, width, length),
            ee.view(outputs, length),
        )  # fmt: skip

    def gram(self, weights: Tensor) -> Tensor:
        """G, ((d + 1) T, (d + 1) T).

        With j = k - s' and the lag m = s' - s >= 0, G[(c, s), (c', s')] = sum_j w[j + s'] R_cc'[j + m, j]: the product
        of a Hankel matrix of weights with the diagonals of R. The other half is its mirror image.
        """
        moments, length = self._moments(), len(weights)
        steps = torch.arange(length, device=weights.device)
        later = steps[:, None] + steps
        inside, row = later < length, later.clamp(max=length - 1)
        diagonals = torch.where(inside, moments[:, :, row, steps], 0.0)  # (c, c', m, j)
        sums = diagonals @ torch.where(inside, weights[row], 0.0)  # (c, c', m, s')
        lag = steps - steps[:, None]
        half = sums[:, :, lag.abs(), steps]  # (c, c', s, s')
        gram = torch.where(lag >= 0, half, half.permute(1, 0, 3, 2))
        return gram.transpose(1, 2).reshape(len(gram) * length, -1)

    def _moments(self) -> Tensor:
        """R_cc'[k, k'] = mean of x_c[k] x_c'[k'], the last channel constant: (d + 1, d + 1, T, T)."""
        width, length = self.x.shape
        moments = self.x.new_ones(width + 1, width + 1, length, length)
        moments[:-1, :-1] = self.xx.transpose(1, 2) / self.count
        mean = self.x / self.count
        moments[:-1, -1], moments[-1, :-1] = mean[:, :, None], mean[:, None]
        return moments

    def cross(self, weights: Tensor) -> Tensor:
        """g = sum_k w_k mean_n x_c[n, k - s] e_p[n, k], the last channel constant: (P, (d + 1) T)."""
        length = len(weights)
        constant = self.e[:, None, :, None].expand(-1, -1, -1, length)
        moments = torch.cat((self.ex.transpose(1, 2), constant), 1) * (weights / self.count)[:, None]  # (p, c, k, j)
        steps = torch.arange(length, device=weights.device)
        lag = steps[:, None] - steps  # (k, s)
        return torch.where(lag >= 0, moments[:, :, steps[:, None], lag.clamp(min=0)], 0.0).sum(2).flatten(1)

    def squares(self, weights: Tensor) -> Tensor:
        """sum_k w_k mean_n e_p[n, k]^2, (P,)."""
        return self.ee @ weights / self.count


def _least_squares(gram: Tensor, cross: Tensor) -> Tensor:
    """A kernel next to that of the smallest error, (P, C T): a ridge keeps it small where the data say nothing."""
    ridge = (RIDGE * gram.diagonal().sum()).clamp(min=torch.finfo(gram.dtype).tiny)
    factor = torch.linalg.cholesky(gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device))
    return torch.cholesky_solve(cross.T, factor).T


def _response(kernel: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """y[p, k] = sum_{c, s <= k} kernel[p, (c, s)] x_c[k - s] as x @ matrix + offset, the last channel constant.

    Args:
        kernel: (P, (d + 1) T).
        length: T.

    Returns:
        (d T, P T) and (P T,).
    """
    steps = torch.arange(length, device=kernel.device)
    lag = steps[:, None] - steps
    lags = kernel.view(len(kernel), -1, length)
    toeplitz = torch.where(lag >= 0, lags[:, :-1, lag.clamp(min=0)], 0.0)  # (p, c, k, j)
    return toeplitz.permute(1, 3, 0, 2).flatten(2).flatten(0, 1), lags[:, -1].cumsum(-1).flatten()
