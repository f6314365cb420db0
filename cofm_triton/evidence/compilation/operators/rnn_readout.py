"""Launches of the fused read-out: every nonlinearity, few and many inputs and outputs."""

from __future__ import annotations

from typing import Any

import torch

from cofm_triton.evidence.compilation.launches import Operator, Options, meta
from cofm_triton.ops.rnn_readout import traffic
from cofm_triton.step.nonlinearity import NONLINEARITIES

WIDTH, CHUNK = 512, 64


def launch(
    dtype: torch.dtype = torch.float32, act_in: str = "linear", act_out: str = "linear", features: int = 1,
    width: int = WIDTH, length: int = 4096,
) -> None:  # fmt: skip
    """Both passes, with and without states kept for the second and a gradient by x."""
    from cofm_triton.kernels import rnn_readout

    x, rate = meta(1, length, features, dtype=dtype), meta(width, dtype=dtype)
    weight, readout = meta(width, features, dtype=dtype), meta(features, width, dtype=dtype)
    options: dict[str, Any] = dict(dt=0.5, act_in=act_in, act_out=act_out, chunk=CHUNK)
    _, states = rnn_readout.forward(x, weight, rate, rate, readout, **options, keep=True)
    rnn_readout.forward(x, weight, rate, rate, readout, **options, keep=False)
    for with_grad_x in (False, True):
        rnn_readout.backward(x, x, weight, rate, rate, readout, states, **options, with_grad_x=with_grad_x)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit and step, which share what moves for a step; a state in `CHUNK` is written forward and read backward."""
    features, wide = options.get("features", 1), max(4, options["dtype"].itemsize)
    gradient = features if constants.get("WITH_GRAD_X", False) else 0
    step = traffic(1, 1, features + gradient, features, options["dtype"].itemsize)
    return step / options.get("width", WIDTH) + (wide / CHUNK if constants.get("KEEP", True) else 0)


OPERATOR = Operator(
    name="rnn_readout",
    launch=launch,
    usual=[dict(dtype=torch.float32, act_in=name) for name in NONLINEARITIES],
    others=[
        *(dict(dtype=torch.float64, act_out=name) for name in NONLINEARITIES),
        # Twice that many inputs and outputs together: the limits of each number of units a lane.
        *(
            dict(dtype=dtype, act_in="tanh", features=features, width=500)
            for features in (2, 4, 8)
            for dtype in (torch.float32, torch.float64)
        ),
    ],
    bytes_per_element=bytes_per_element,
)
