"""Launches of the perturbation sweep: widths, nonlinearities, several inputs and outputs, both kinds of error."""

from __future__ import annotations

import torch
from torch import Tensor

from cofm_triton.evidence.compilation.launches import Operator, Options, meta
from cofm_triton.perturbation.curve import traffic

MODELS, SEQUENCES, STEPS = 40, 300, 100


def launch(
    units: int, dtype: torch.dtype = torch.float32, act_in: str = "linear", act_out: str = "linear", inputs: int = 1,
    outputs: int = 1, sup: bool = False,
) -> None:  # fmt: skip
    """Errors of a stack of models."""
    from cofm_triton.kernels import perturbation
    from cofm_triton.step.stacked_cells import StackedCells

    def numbers(*shape: int) -> Tensor:
        return meta(MODELS, *shape, dtype=torch.float64)

    cells = StackedCells(
        numbers(units), numbers(units, inputs), numbers(units), numbers(outputs, units), numbers(outputs),
        dt=0.5, act_in=act_in, act_out=act_out,
    )  # fmt: skip
    x, targets = meta(SEQUENCES, STEPS, inputs, dtype=dtype), meta(SEQUENCES, STEPS, outputs, dtype=dtype)
    perturbation.sweep_errors(cells, x, targets, None if sup else meta(STEPS, dtype=torch.float64))


def elements(constants: Options) -> int:
    """Units of models, on a sequence, in a step: a program's states times the steps of a block."""
    units: int = constants["GROUPS"] * constants["GROUP"] * constants["BLOCK_K"]
    return units * constants["BLOCK_N"] * constants["PER_THREAD"] * constants["ROWS"]


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit of a model, on a sequence, in a step: a program's models share what they read."""
    channels = options.get("inputs", 1), options.get("outputs", 1)
    together = constants["BLOCK_K"] * options["units"]
    return traffic(1, 1, *channels, options.get("dtype", torch.float32).itemsize) / together


OPERATOR = Operator(
    name="perturbation",
    launch=launch,
    usual=[dict(units=64, act_in="hardtanh"), dict(units=64, act_in="tanh"), dict(units=8, act_in="hardtanh")],
    others=[
        dict(units=32, act_in="hardtanh", dtype=torch.float64),
        dict(units=9, act_out="relu", inputs=2, outputs=3, sup=True),
    ],
    bytes_per_element=bytes_per_element,
    elements=elements,
)
