"""Launches of the sweep over dense models: widths, nonlinearities, several inputs and outputs, both kinds of error."""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.compilation.launches import Operator, Options, meta
from cofm_triton.perturbation.curve import traffic

MODELS, SEQUENCES, STEPS = 40, 300, 100


def launch(
    units: int, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh", inputs: int = 1, outputs: int = 1,
    sup: bool = False,
) -> None:  # fmt: skip
    """Errors of a stack of models."""
    from cofm_triton.kernels import dense_perturbation
    from cofm_triton.step.stacked_cells import StackedCells

    def numbers(*shape: int) -> Tensor:
        return meta(MODELS, *shape, dtype=torch.float64)

    cells = StackedCells(
        numbers(units, units), numbers(units, inputs), numbers(units), numbers(outputs, units), numbers(outputs),
        dt=0.5, act_in=nonlinearity, act_out="linear",
    )  # fmt: skip
    x, targets = meta(SEQUENCES, STEPS, inputs, dtype=dtype), meta(SEQUENCES, STEPS, outputs, dtype=dtype)
    dense_perturbation.sweep_errors(cells, x, targets, None if sup else meta(STEPS, dtype=torch.float64))


def elements(constants: Options) -> int:
    """Units of a model, on a sequence, in a step: states of a turn of the loop along time."""
    states: int = constants["BLOCK"] * constants["PAIR"] * constants["ROWS"]
    return states


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit of a model, on a sequence, in a step: a program has one model, whose units share what it reads."""
    channels = options.get("inputs", 1), options.get("outputs", 1)
    return traffic(1, 1, *channels, options.get("dtype", torch.float32).itemsize) / float(options["units"])


OPERATOR = Operator(
    name="dense_perturbation",
    launch=launch,
    usual=[dict(units=64), dict(units=64, nonlinearity="tanh"), dict(units=16)],
    others=[
        dict(units=64, dtype=torch.float64),
        dict(units=100, nonlinearity="tanh"),
        dict(units=9, nonlinearity="relu", inputs=2, outputs=3, sup=True),
    ],
    bytes_per_element=bytes_per_element,
    elements=elements,
)
