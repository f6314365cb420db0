"""The gradient of a layer's output by its states: what is compiled."""

from __future__ import annotations

import torch

from cofm_triton.evidence.compilation.launches import Options, meta
from cofm_triton.evidence.operator import Compilation, Operator
from cofm_triton.step.activation import activation
from cofm_triton.step.activations import NONLINEARITIES

SHAPE = (8, 64, 256)


def launch(nonlinearity: str, dtype: torch.dtype = torch.float32) -> None:
    """The only kernel."""
    from cofm_triton.kernels import activation_gradient

    tensor = meta(*SHAPE, dtype=dtype)
    activation_gradient.backward(tensor, tensor, nonlinearity)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """What it gets, what it derives, and what it gives."""
    return 3.0 * options.get("dtype", torch.float32).itemsize


OPERATOR = Operator(
    name="activation_gradient",
    function=activation,
    sequences=(),
    compilation=Compilation(
        launch=launch,
        usual=[dict(nonlinearity="relu")],
        others=[
            dict(nonlinearity=name, dtype=dtype)
            for name in NONLINEARITIES
            for dtype in (torch.float32, torch.float64)
            if name != "linear" and (name, dtype) != ("relu", torch.float32)
        ],
        bytes_per_element=bytes_per_element,
        elements=lambda constants: int(constants["BLOCK"]),
    ),
)
