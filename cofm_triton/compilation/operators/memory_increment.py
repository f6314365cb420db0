"""Launches of the memory increments: widths, nonlinearities, both precisions."""

from __future__ import annotations

import torch

from cofm_triton.compilation.launches import Operator, Options, meta

MODELS, INPUTS, SAMPLES = 40, 300, 50


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


def bytes_per_element(kernel: str, constants: Options, options: Options) -> None:
    """None: what moves is counted in samples, whatever the number of steps; states never leave the registers."""


OPERATOR = Operator(
    name="memory_increment",
    launch=launch,
    usual=[dict(units=64), dict(units=64, nonlinearity="hardtanh")],
    others=[dict(units=9, outputs=3, nonlinearity="relu"), dict(units=64, dtype=torch.float32)],
    bytes_per_element=bytes_per_element,
    elements=elements,
)
