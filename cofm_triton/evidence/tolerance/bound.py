"""A bound: the exact value of a result and how far a computed one may lie from it; what all bounds are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from cofm_triton.cpu.packed import pieces
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.pairs import as_reals

Run = Callable[..., tuple[Tensor, ...]]
Bounds = Callable[..., dict[str, "Bound"]]
# Roundings that blocked orders add per path of a term, two levels of blocks with three each, and room for the output.
LEVELS = 8
# Roundings of a rate, or of its derivative, made of a raw parameter: two for each of at most three functions like exp
# (one unit in the last place), one for each of at most four operations. None where the parameters are the rates.
RATE_ROUNDINGS = 10
# Products of two errors, left out: below a thousandth of the bound while the relative errors are.
SECOND_ORDER = 1.01


class Bound(NamedTuple):
    """The exact value of a result, float64 or complex128, and how far a computed one may be from it."""

    exact: Tensor
    error: Tensor

    def excess(self, actual: Tensor) -> float:
        """Largest error over its bound; up to 1 is a pass. Non-finite values count as errors unless exact has them.

        Example:
            >>> Bound(torch.tensor([2.0]), torch.tensor([0.5])).excess(torch.tensor([1.0]))
            2.0
        """
        if actual.shape != self.exact.shape:
            raise ValueError(f"actual must have shape {tuple(self.exact.shape)}, got {tuple(actual.shape)}")
        if actual.numel() == 0:
            return 0.0
        actual = actual.detach()
        error = (actual.to(self.exact.dtype) - self.exact).abs()
        equal = (actual == self.exact) | (actual.isnan() & self.exact.isnan())
        ratio = torch.where(equal, 0.0, error / self.error)
        return float(torch.where(ratio.isnan(), torch.inf, ratio).max())


def unit_roundoff(dtype: torch.dtype) -> float:
    """u: half the distance from 1 to the next number.

    Example:
        >>> unit_roundoff(torch.float32) == 2**-24
        True
    """
    return torch.finfo(dtype).eps / 2


def differentiate(run: Run, inputs: list[Tensor], weights: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Results of `run`, and the gradients of `sum(weights * results)` by its inputs; zeros by what it never reads."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    results = run(*leaves)
    grads = torch.autograd.grad(results, leaves, weights, allow_unused=True, materialize_grads=True)
    return [result.detach() for result in results], list(grads)


def rounding_of(dtype: torch.dtype) -> float:
    """u of the state, and that of the exact value in float64."""
    return unit_roundoff(dtype) + unit_roundoff(torch.float64)


def storage_of(dtype: torch.dtype) -> float:
    """u of a dtype narrower than the state, whose numbers are rounded once more when stored."""
    return unit_roundoff(dtype) if state_dtype(dtype) != dtype else 0.0


def least_of(dtype: torch.dtype) -> float:
    """What storing a number in a dtype narrower than the state loses of one that is too small for a relative error."""
    limits = torch.finfo(dtype)
    return limits.smallest_normal * limits.eps if state_dtype(dtype) != dtype else 0.0


def stored_error(sizes: Tensor, dtype: torch.dtype) -> Tensor:
    """What numbers of these sizes lose when they are stored, see `storage_of`: below the normal ones, absolutely."""
    return storage_of(dtype) * sizes + least_of(dtype)


def of_parts(bound: Bound) -> Bound:
    """Of complex numbers, that of their parts as pairs of real channels."""
    return Bound(as_reals(bound.exact), bound.error.abs().repeat_interleave(2, -1))


def bound_of(exact: Tensor, error: Tensor, dtype: torch.dtype) -> Bound:
    """Adds the final rounding to `dtype`, relative, and absolute below the normal numbers of it and of the state."""
    limits, state_limits = torch.finfo(dtype), torch.finfo(state_dtype(dtype))
    least = limits.smallest_normal * limits.eps + state_limits.smallest_normal
    rounded = error + storage_of(dtype) * (exact.abs() + error) + least
    return Bound(exact, SECOND_ORDER * rounded)


def bounds_of_pieces(
    bounds: Bounds, tensors: tuple[Tensor, ...], h0: Tensor | None, grad_h: Tensor | None, grad_last: Tensor | None,
    seq_starts: Tensor | None, resets: Tensor, reset_to: str,
) -> dict[str, Bound]:  # fmt: skip
    """Bounds of a recurrence with resets: of its pieces, each alone, packed end to end into one row.

    Args:
        bounds: `(*tensors, h0, grad_h, grad_last, seq_starts=)` to bounds, without resets.
        tensors: x (B, T, D) and parameters, those of three axes like x; "grad_..." of the bounds are of these and h0.
        h0: (S, D) or None.
        grad_h: (B, T, D) or None.
        grad_last: (S, D) or None.
        seq_starts: (S,) or None.
        resets: (B, T).
        reset_to: "h0" or "zero".
    """
    shape = tensors[0].shape
    if shape[0] == 0:  # nothing to cut
        return dict(bounds(*tensors, h0, grad_h, grad_last, seq_starts=seq_starts))
    cut = pieces(resets, seq_starts, reverse=False, reset_to=reset_to)

    def in_one_row(tensor: Tensor) -> Tensor:
        return tensor.reshape(1, -1, tensor.shape[2]) if tensor.dim() == 3 else tensor

    batch, first, count = cut.spans.T
    starts = torch.where(count > 0, batch * shape[1] + first, shape[0] * shape[1])
    found = bounds(
        *map(in_one_row, tensors), cut.starts(h0), None if grad_h is None else in_one_row(grad_h), cut.ends(grad_last),
        seq_starts=starts,
    )  # fmt: skip

    def of_call(name: str, values: Tensor) -> Tensor:
        if name == "h_last":
            return values[cut.last]
        if name == "grad_h0":
            return cut.sum_at_start(values)
        return values.reshape(shape) if values.dim() == 3 else values

    whole = {name: Bound(of_call(name, bound.exact), of_call(name, bound.error)) for name, bound in found.items()}
    # A sum over pieces rounds once for each.
    exact, error = whole["grad_h0"]
    sizes = of_call("grad_h0", found["grad_h0"].exact.abs())
    rounded = len(cut.sequence) * rounding_of(state_dtype(tensors[0].dtype)) * sizes
    return {**whole, "grad_h0": Bound(exact, error + rounded)}
