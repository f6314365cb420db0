"""Launches of the diagonal nonlinear recurrence: every nonlinearity, aligned rows and others, units and pairs."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch

from cofm_triton.evidence.compilation.launches import SPLIT, WHOLE, Operator, Options, meta, sequence
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.ops.rnn_scan import traffic
from cofm_triton.step.nonlinearity import NONLINEARITIES
from cofm_triton.step.parameterization import PARAMETERIZATIONS

EVEN, RAGGED, FEW, FEW_PAIRS = 512, 500, 3, 6
# Multiprocessors that leave one sequence of EVEN channels in blocks of 64.
FEWER = 16


def launch(
    dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh", packed: bool = False, states: bool = True,
    length: int = 4096, width: int = EVEN, sliced: bool = False, parameterization: str = "direct",
    discretization: str = "euler", num_sms: int = WHOLE, transposed: bool = False, paired: bool = False,
) -> None:  # fmt: skip
    """Both passes."""
    from triton.runtime import driver

    from cofm_triton.kernels import paired_rnn_scan, rnn_scan

    state = state_dtype(dtype)
    x, w = sequence(length, width, dtype, sliced, transposed), meta(width, dtype=state)
    seq_starts = meta(4, dtype=torch.int64) if packed else None
    h0 = meta(4 if packed else 1, width, dtype=state) if states else None
    options: dict[str, Any] = dict(dt=0.5, nonlinearity=nonlinearity, state_dtype=state, num_sms=num_sms)
    if paired:
        options.update(lanes=driver.active.get_current_target().warp_size)
        paired_rnn_scan.forward(x, w, w, h0, seq_starts, **options)
        h = meta(*x.shape, dtype=dtype)
        paired_rnn_scan.backward(x, h0, x, w, w, h, h0, seq_starts, **options)
        return
    options.update(parameterization=parameterization, discretization=discretization)
    rnn_scan.forward(x, w, h0, seq_starts, **options)
    h = meta(*x.shape, dtype=dtype)
    rnn_scan.backward(x, h0, x, w, h, h0, seq_starts, **options)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Per element."""
    return traffic(1, 1, 1, options.get("dtype", torch.float32).itemsize, backward="backward" in kernel)


OPERATOR = Operator(
    name="rnn_scan",
    launch=launch,
    usual=[
        *(dict(dtype=torch.float32, nonlinearity=name) for name in NONLINEARITIES),
        *(dict(dtype=torch.bfloat16, nonlinearity=name) for name in ("tanh", "hardtanh")),
        *(
            dict(dtype=dtype, nonlinearity=name, paired=True)
            for dtype, name in product((torch.float32, torch.bfloat16), ("tanh", "hardtanh"))
        ),
    ],
    others=[
        *(
            dict(dtype=dtype, nonlinearity=name, num_sms=num_sms)
            for dtype, name, num_sms in product((torch.float32, torch.bfloat16), ("tanh", "hardtanh"), (FEWER, SPLIT))
        ),
        dict(dtype=torch.float64, nonlinearity="tanh", num_sms=SPLIT),
        dict(width=RAGGED, packed=True, num_sms=SPLIT),
        dict(dtype=torch.bfloat16, sliced=True),
        dict(transposed=True),
        dict(width=RAGGED),
        *(dict(dtype=torch.float64, nonlinearity=name) for name in NONLINEARITIES),
        *(dict(dtype=dtype, nonlinearity="tanh", width=RAGGED) for dtype in (torch.bfloat16, torch.float64)),
        dict(width=RAGGED, packed=True),
        dict(width=FEW, states=False),
        *(dict(parameterization=name, discretization="exact") for name in PARAMETERIZATIONS),
        dict(dtype=torch.float64, nonlinearity="tanh", parameterization="softplus", discretization="exact"),
        *(dict(nonlinearity=name, paired=True) for name in ("linear", "relu")),
        *(
            dict(dtype=dtype, nonlinearity=name, num_sms=SPLIT, paired=True)
            for dtype, name in product((torch.float32, torch.bfloat16), ("tanh", "hardtanh"))
        ),
        *(dict(dtype=torch.float64, nonlinearity=name, paired=True) for name in ("tanh", "hardtanh")),
        dict(dtype=torch.bfloat16, sliced=True, paired=True),
        dict(width=RAGGED, packed=True, paired=True),
        dict(dtype=torch.bfloat16, nonlinearity="tanh", width=RAGGED, paired=True),
        dict(width=FEW_PAIRS, states=False, paired=True),
    ],
    bytes_per_element=bytes_per_element,
)
