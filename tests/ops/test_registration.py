"""What every registered operator owes to PyTorch's rules of batching."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scan_cases import CPU_BACKENDS
from torch import Tensor
from torch.func import grad, jvp, vmap

from cofm_triton.functional import dense_rnn, gated_rnn, linear_scan, rnn_scan
from cofm_triton.ops.rnn_readout import apply_rnn_readout

# A function of tensors, and their shapes without the mapped axis.
CALLS: dict[str, tuple[Callable[..., Any], tuple[tuple[int, ...], ...]]] = {
    "linear_scan": (linear_scan, ((2, 5, 4), (4,), (2, 4))),
    "gated linear_scan": (linear_scan, ((2, 5, 4), (2, 5, 1), (2, 4))),
    "linear_scan in pairs": (
        lambda x, w, h0, backend: linear_scan(x, torch.polar(w.sigmoid(), w), h0, backend=backend),
        ((2, 5, 4), (2,), (2, 4)),
    ),
    "rnn_scan": (rnn_scan, ((2, 5, 4), (4,), (2, 4))),
    "dense_rnn": (dense_rnn, ((2, 5, 4), (4, 4), (2, 4))),
    "gated_rnn": (gated_rnn, ((2, 5, 4), (4,), (2, 5, 4), (2, 5, 4), (2, 4))),
    "rnn_readout": (
        lambda *tensors, backend: (apply_rnn_readout(*tensors, 1.0, "tanh", "tanh", backend),),  # type: ignore[call-arg]
        ((2, 5, 3), (4, 3), (4,), (4,), (2, 4), (2,)),
    ),
}


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("mapped", ["all", "first", "second"])
def test_vmap_over_nothing(mapped: str, name: str, backend: str) -> None:
    """An axis without entries: results, gradients and tangents without entries, of the right shapes, as PyTorch's."""
    call, shapes = CALLS[name]
    dims = tuple(0 if mapped in ("all", ("first", "second")[min(i, 1)]) and (i < 2 or mapped == "all") else None
                 for i in range(len(shapes)))  # fmt: skip
    tensors = tuple(torch.zeros(shape if dim is None else (0, *shape)) for shape, dim in zip(shapes, dims, strict=True))
    one = tuple(torch.zeros(shape) for shape in shapes)

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(call(*tensors, backend=backend))

    def loss(*tensors: Tensor) -> Tensor:
        return torch.cat([result.flatten() for result in run(*tensors)]).square().sum()

    def tangent(*tensors: Tensor) -> Any:
        return jvp(run, tensors, tensors)[1]

    for function in (run, grad(loss, argnums=tuple(range(len(shapes)))), tangent):
        results = vmap(function, in_dims=dims)(*tensors)
        assert [result.shape for result in results] == [(0, *result.shape) for result in function(*one)]
