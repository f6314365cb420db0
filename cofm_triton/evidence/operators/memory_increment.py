"""The memory sweep: increments of K nonlinear models under Heaviside inputs, at some of the steps."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cofm_triton.evidence.compilation.launches import Options, meta
from cofm_triton.evidence.draws import NONLINEAR, normal
from cofm_triton.evidence.operator import Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import increment_bounds
from cofm_triton.ops.memory_increment import traffic
from cofm_triton.ops.sweeps import increment_backend

# Every how many steps increments are asked for: often enough to take steps one by one, and to jump where it is linear.
STRIDE = 7
# Samples of a record of so many steps; what moves is counted in samples, so that it is spread over the steps.
MODELS, INPUTS, SAMPLES, STEPS = 40, 300, 50, 1000


def increments(*, nonlinearity: str, backend: str, **tensors: Tensor) -> Tensor:
    """The read-outs on one backend."""
    return increment_backend(backend).sampled_increments(nonlinearity, **tensors)


def increment_problem(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float64, nonlinearity: str = "tanh",
    states: bool = False, seed: int = 0,
) -> Problem:  # fmt: skip
    """Two models whose units forget within a few steps and within thousands; `batch` inputs, steps up to `length`.

    `states` is accepted and ignored: increments always start from rest.
    """
    seed *= 10
    rate = (3 * normal(2, channels, dtype=dtype, seed=seed) - 2).exp()
    tensors = {
        "drive": 2 * normal(2, batch, channels, dtype=dtype, seed=seed + 1),
        "decay": torch.exp(-rate),
        "step": -torch.expm1(-rate),
        "readout": normal(2, 2, channels, dtype=dtype, seed=seed + 2),
        "steps": torch.arange(0, max(1, length), STRIDE),
    }
    return Problem(OPERATOR, tensors, options={"nonlinearity": nonlinearity})


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
    function=increments,
    results={"increments": "grad_increments"},
    bounds=increment_bounds,
    sequences=("drive",),
    validation=Validation(
        draws={name: partial(increment_problem, nonlinearity=name) for name in NONLINEAR},
        dtypes=(torch.float64,),
        backends=("triton", "numba", "torch"),
        functions={"forward": "sampled_increments"},
    ),
    compilation=Compilation(
        launch=launch,
        usual=[dict(units=64), dict(units=64, nonlinearity="hardtanh")],
        others=[dict(units=9, outputs=3, nonlinearity="relu"), dict(units=64, dtype=torch.float32)],
        bytes_per_element=bytes_per_element,
        elements=elements,
    ),
)
