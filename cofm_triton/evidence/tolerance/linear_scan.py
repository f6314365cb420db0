"""Bounds of the linear scan, see `tolerance`."""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance.bound import (
    LEVELS,
    Bound,
    bound_of,
    differentiate,
    least_of,
    of_parts,
    rounding_of,
    storage_of,
)
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.pairs import as_complex, in_pairs


def linear_scan_bounds(
    x: Tensor,
    decay: Tensor,
    h0: Tensor | None = None,
    grad_h: Tensor | None = None,
    grad_last: Tensor | None = None,
    *,
    reverse: bool = False,
    seq_starts: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to: str = "h0",
) -> dict[str, Bound]:
    """Exact results of `cofm_triton.linear_scan` and the errors that any correct evaluation stays below.

    Args:
        x: (B, T, D) in the dtype that is tested: its unit roundoff and its state's are the u of the bounds.
        decay: (D,), or broadcastable to (B, T, D); (D // 2,) or (B, T, D // 2) if complex with a real x.
        h0: (B, D) or None; (S, D) with `seq_starts`.
        grad_h: (B, T, D), derivative of a loss by h; None for zeros.
        grad_last: like h_last, derivative of a loss by it; None for zeros.
        reverse: see `linear_scan`.
        seq_starts: see `linear_scan`.
        resets: see `linear_scan`.
        reset_to: see `linear_scan`.

    Returns:
        "h", "h_last", "grad_x", "grad_decay" (in the shape of decay) and "grad_h0" (as if h0 were zeros when None).

    Example:
        >>> bounds = linear_scan_bounds(torch.ones(1, 2, 1), torch.tensor([0.5]))
        >>> bounds["h"].exact.flatten().tolist(), bool((bounds["h"].error < 1e-5).all())
        ([1.0, 1.5], True)
    """
    sequences = x.shape[0] if seq_starts is None else seq_starts.shape[0]
    state, last_dtype = state_dtype(x.dtype), x.dtype if h0 is None else h0.dtype
    wide, pairs = torch.complex128 if decay.is_complex() else torch.float64, in_pairs(x, decay)
    inputs = [x, decay, x.new_zeros((sequences, x.shape[2])) if h0 is None else h0]
    weights = [x.new_zeros(x.shape) if grad_h is None else grad_h]
    weights += [inputs[2].new_zeros(inputs[2].shape) if grad_last is None else grad_last]
    if pairs:  # what bounds the error of a complex number bounds those of its parts
        inputs = [as_complex(inputs[0].double()), decay, as_complex(inputs[2].double())]
        weights = [as_complex(weight.double()) for weight in weights]

    def run(x: Tensor, decay: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return reference.linear_scan(
            x, decay, h0, reverse=reverse, seq_starts=seq_starts, resets=resets, reset_to=reset_to
        )

    u = rounding_of(state)
    steps = 4 if decay.is_complex() else 2
    exact, exact_grads = differentiate(run, [t.to(wide) for t in inputs], [t.to(wide) for t in weights])

    magnitudes = [t.to(wide).abs() for t in inputs]
    magnitudes[1] = magnitudes[1].expand(inputs[0].shape).clone()  # one decay per step: terms are summed below
    pulls = [t.to(wide).abs() for t in weights]
    (reach, reach_last), grads = differentiate(run, magnitudes, pulls)
    # Errors of the states, and the adjoint's way through them: by |a| it is sum(Lambda * e[t-1]).
    nothing = torch.zeros_like(magnitudes[2])
    driven = [steps * u * reach, magnitudes[1], nothing]
    (e, e_last), state_grads = differentiate(run, driven, pulls)
    # Errors of the adjoint, driven by 2 u Lambda: by |x| they are e_lambda, by |a| sum(e_lambda * H[t-1]).
    _, adjoint_grads = differentiate(run, magnitudes, [steps * u * grads[0], nothing])

    # A term of grad_decay: stored states enter it, it is rounded, and stored once more if decays are 16 bits wide.
    few = LEVELS * u
    e_term = adjoint_grads[1] + state_grads[1] + (few + storage_of(x.dtype) + storage_of(decay.dtype)) * grads[1]
    e_term = e_term + least_of(x.dtype) * grads[0] + least_of(decay.dtype)
    count = inputs[0].numel() / max(decay.numel(), 1)
    e_decay = e_term.sum_to_size(decay.shape) + count * u * grads[1].sum_to_size(decay.shape)
    pieces = 0 if resets is None or not len(resets) else int(resets.sum(1).max())  # each has a part of h0's gradient
    bounds = {
        "h": bound_of(exact[0], e + few * reach, x.dtype),
        "h_last": bound_of(exact[1], e_last + few * reach_last, last_dtype),
        "grad_x": bound_of(exact_grads[0], adjoint_grads[0] + few * grads[0], x.dtype),
        "grad_decay": bound_of(exact_grads[1], e_decay, decay.dtype),
        "grad_h0": bound_of(exact_grads[2], adjoint_grads[2] + (few + pieces * u) * grads[2], last_dtype),
    }
    return {k: of_parts(v) if pairs and k != "grad_decay" else v for k, v in bounds.items()}
