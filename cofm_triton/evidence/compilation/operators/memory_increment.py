"""Launches of the memory increments: widths, nonlinearities, both precisions."""

from __future__ import annotations

import torch

from cofm_triton.evidence.compilation.launches import Operator, Options, meta
from cofm_triton.memory.diagonal import traffic

# Samples of a record of so many steps; what moves is counted in samples, so that it is spread over the steps.
MODELS, INPUTS, SAMPLES, STEPS = 40, 300, 50, 1000


def launch(units: int, nonlinearity: str = "tanh", outputs: int = 1, dtype: torch.dtype = torch.float64) -> None:
    """Increments of a stack of models."""
    from cofm_triton.kernels import memory_increment

    memory_increment.sampled_increments(
        nonlinearity, meta(MODELS, INPUTS, units, dtype=dtype), meta(MODELS, units, dtype=dtype),
        meta(MODELS, units, dtype=dtype), meta(MODELS, outputs, units, dtype=dtype), meta(SAMPLES, dtype=torch.int64),
    )  # fmt: skip


def elements(constants: Options) -> int:
    """Units of a model, under an input, in a step."""
    states: int = constants["BLOCK_N"] * constants["BLOCK_I"]
    return states


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per unit of a model, under an input, in a step."""
    units, itemsize = options["units"], options.get("dtype", torch.float64).itemsize
    moved = traffic(MODELS, INPUTS, SAMPLES, units, options.get("outputs", 1), itemsize)
    return moved / float(MODELS * INPUTS * STEPS * units)


OPERATOR = Operator(
    name="memory_increment",
    launch=launch,
    usual=[dict(units=64), dict(units=64, nonlinearity="hardtanh")],
    others=[dict(units=9, outputs=3, nonlinearity="relu"), dict(units=64, dtype=torch.float32)],
    bytes_per_element=bytes_per_element,
    elements=elements,
)
