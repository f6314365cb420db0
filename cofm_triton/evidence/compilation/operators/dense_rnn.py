"""Launches of the dense recurrence: matrices in registers, half of one read again in every step, launches by steps.

Instructions are counted per state that a turn of the loop along time makes; those of the kernels of one step, which
loop along the terms of a product, per term.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from cofm_triton.evidence.compilation.launches import Operator, Options, meta
from cofm_triton.ops.dense_rnn import step_traffic, traffic
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.step.nonlinearity import NONLINEARITIES

SMALL, RESIDENT, TILED, CACHED, STEPS, RAGGED = 64, 128, 160, 256, 640, 500
BATCH = 4


def launch(
    dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh", width: int = RESIDENT, length: int = 2,
    states: bool = True, precision: str = "ieee", wide: bool = False,
) -> None:  # fmt: skip
    """Both passes; without initial states the forward pass keeps no slopes either. `wide` weights are the state's."""
    from triton.runtime import driver

    from cofm_triton.kernels import dense_rnn

    target = driver.active.get_current_target()
    if target.backend == "hip":
        precision = "ieee"
    state = state_dtype(dtype)
    x = meta(BATCH, length, width, dtype=dtype)
    weight = meta(width, width, dtype=state if wide or dtype == torch.float16 else dtype)
    h0 = meta(BATCH, width, dtype=state) if states else None
    options: dict[str, Any] = dict(dt=0.5, precision=precision, lanes=target.warp_size)
    dense_rnn.forward(x, weight, h0, nonlinearity=nonlinearity, keep=states, state_dtype=state, **options)
    dense_rnn.adjoint(x, h0, meta(*x.shape, dtype=state), weight, **options)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per state; per term of a product for the kernels of one step."""
    itemsize, width = options.get("dtype", torch.float32).itemsize, options["width"]
    kind: dict[str, Any] = dict(backward="adjoint" in kernel, keep=constants.get("KEEP", True))
    if "step" in kernel:
        return step_traffic(BATCH, width, itemsize, **kind) / (BATCH * width * width)
    return traffic(1, 1, 1, itemsize, **kind)


def elements(constants: Options) -> int:
    """States of one turn of the loop along time, or terms of one turn of a step's loop."""
    if "TILE_K" in constants:
        terms: int = constants["TILE_B"] * constants["TILE_N"] * constants["TILE_K"]
        return terms
    states: int = constants["BLOCK"] * constants["BLOCKS"]
    return states


OPERATOR = Operator(
    name="dense_rnn",
    launch=launch,
    usual=[
        *(dict(width=width, nonlinearity="tanh") for width in (SMALL, RESIDENT, CACHED, STEPS)),
        dict(width=RESIDENT, nonlinearity="hardtanh"),
        *(dict(width=width, nonlinearity="tanh", dtype=torch.bfloat16) for width in (RESIDENT, CACHED)),
        dict(width=STEPS, nonlinearity="tanh", precision="tf32x3"),
    ],
    others=[
        *(dict(width=TILED, nonlinearity="tanh", dtype=dtype) for dtype in (torch.float32, torch.bfloat16)),
        *(dict(width=CACHED, nonlinearity=name, dtype=torch.float16) for name in NONLINEARITIES),
        *(dict(width=CACHED, nonlinearity=name, dtype=torch.bfloat16) for name in ("linear", "hardtanh", "relu")),
        *(dict(width=CACHED, nonlinearity=name, dtype=torch.bfloat16, wide=True) for name in NONLINEARITIES),
        dict(width=STEPS, nonlinearity="tanh", dtype=torch.bfloat16),
        *(dict(width=width, nonlinearity="tanh", dtype=torch.float64) for width in (SMALL, RESIDENT, STEPS)),
        *(dict(width=width, states=False) for width in (3, 200, RAGGED)),
        *(dict(width=width, nonlinearity=name) for width, name in product((CACHED, RAGGED), ("linear", "relu"))),
        dict(width=RAGGED, precision="tf32x3"),
    ],
    bytes_per_element=bytes_per_element,
    elements=elements,
)
