"""`cofm_triton.rnn_scan` of units: every nonlinearity, packed."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import Any

import torch

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.launches import SPLIT, WHOLE, Options, meta, sequence
from cofm_triton.evidence.draws import away_from_kinks, inputs_to, normal, randn, reset_options, spread_rates
from cofm_triton.evidence.operator import Benchmark, Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import rnn_scan_bounds
from cofm_triton.functional import rnn_scan
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.ops.rnn_scan import traffic
from cofm_triton.step.activations import NONLINEARITIES
from cofm_triton.step.parameterization import PARAMETERIZATIONS
from cofm_triton.step.parameterization import parameterization as look_up
from cofm_triton.step.step_rate import step_rate

# An expensive and a cheap nonlinearity.
USUAL = ("tanh", "hardtanh")
EVEN, RAGGED, FEW, FEW_PAIRS = 512, 500, 3, 6
# Rows of a sequence that is never cut, and of one that does not fit in an L2.
SHORT, LONG = 1024, 2**16
# Multiprocessors that leave one sequence of EVEN channels in blocks of 64.
FEWER = 16


def rnn_problem(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, starts: list[int] | None = None, seed: int = 0,
    parameterization: str = "direct", discretization: str = "euler", gated: bool = False, reset_to: str | None = None,
) -> Problem:  # fmt: skip
    """A nonlinear scan whose pre-activations keep away from the kinks of hardtanh and relu.

    They are drawn first, and x is what leads to them. Rates that a parameterisation cannot express become ones it can.
    `gated`, rates vary in time, and have x's dtype. Without `reset_to`, no resets.
    """
    state, seed = state_dtype(dtype), 10 * seed
    sequences = batch if starts is None else len(starts)
    of_rates = (batch, length, channels) if gated else (channels,)
    rate = 0.05 + 0.9 * normal(*of_rates, dtype=torch.float64, seed=seed + 5).abs() / 2
    kind = look_up(parameterization)
    raw = kind.inverse(rate.clamp(max=min(1.2, 0.9 * kind.range.high))).to(dtype if gated else state)
    rate = step_rate(raw.double(), dt, parameterization, discretization)
    h0 = torch.zeros(sequences, channels, dtype=state)
    if states:
        h0 = normal(sequences, channels, dtype=state, seed=seed + 2)
    z = away_from_kinks(batch, length, channels, seed=seed + 6)
    cuts = reset_options(batch, length, reset_to, seed + 7)
    x = inputs_to(
        z, h0, lambda h, t: (rate[:, t] if gated else rate) * h, starts, dt=dt, nonlinearity=nonlinearity, dtype=dtype,
        **cuts,
    )  # fmt: skip
    pulls = {
        "grad_h": normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        "grad_last": normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
    }
    options = dict(
        dt=dt, nonlinearity=nonlinearity, parameterization=parameterization, discretization=discretization,
        seq_starts=None if starts is None else torch.tensor(starts), **cuts,
    )  # fmt: skip
    return Problem(OPERATOR, {"x": x, "rate": raw, **({"h0": h0} if states else {})}, pulls, options)


def timed(case: Case, device: torch.device) -> Problem:
    """x, rates for memories of every length, and the gradient of h."""
    tensors = {"x": randn(case, device, 0), "rate": spread_rates(case, device)}
    return Problem(OPERATOR, tensors, {"grad_h": randn(case, device, 1)})


def launch(
    dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh", packed: bool = False, states: bool = True,
    length: int = 4096, width: int = EVEN, sliced: bool = False, parameterization: str = "direct",
    discretization: str = "euler", num_sms: int = WHOLE, transposed: bool = False, paired: bool = False,
    gated: bool = False, resets: bool = False,
) -> None:  # fmt: skip
    """Both passes; `gated`, rates vary in time, `resets` are to h0."""
    from triton.runtime import driver

    from cofm_triton.kernels import paired_rnn_scan, rnn_scan

    state = state_dtype(dtype)
    x, w = sequence(length, width, dtype, sliced, transposed), meta(width, dtype=state)
    seq_starts = meta(4, dtype=torch.int64) if packed else None
    h0 = meta(4 if packed else 1, width, dtype=state) if states else None
    options: dict[str, Any] = dict(dt=0.5, nonlinearity=nonlinearity, state_dtype=state, num_sms=num_sms)
    options["resets"] = meta(1, length, dtype=torch.bool) if resets else None
    if paired:
        options.update(lanes=driver.active.get_current_target().warp_size)
        paired_rnn_scan.forward(x, w, w, h0, seq_starts, **options)
        h = meta(*x.shape, dtype=dtype)
        paired_rnn_scan.backward(x, h0, x, w, w, h, h0, seq_starts, **options)
        return
    options.update(parameterization=parameterization, discretization=discretization)
    w = x if gated else w
    rnn_scan.forward(x, w, h0, seq_starts, **options)
    h = meta(*x.shape, dtype=dtype)
    rnn_scan.backward(x, h0, x, w, h, h0, seq_starts, **options)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float | None:
    """Per element; None for kernels of a part of a pass."""
    if kernel not in ("rnn_scan_forward_kernel", "rnn_scan_backward_kernel"):
        return None
    itemsize = options.get("dtype", torch.float32).itemsize
    return traffic(1, 1, 1, itemsize, gated=constants["GATED"], backward="backward" in kernel)


OPERATOR = Operator(
    name="rnn_scan",
    function=rnn_scan,
    bounds=rnn_scan_bounds,
    sequences=("x", "rate", "grad_h"),
    validation=Validation(
        draws={
            **{name: partial(rnn_problem, nonlinearity=name) for name in NONLINEARITIES},
            "tanh+packed": partial(rnn_problem, nonlinearity="tanh"),
            "gated": partial(rnn_problem, gated=True),
            "resets": partial(rnn_problem, nonlinearity="tanh", reset_to="h0"),
            "gated+packed+resets": partial(rnn_problem, nonlinearity="relu", gated=True, reset_to="zero"),
        },
        dtypes=REAL_DTYPES,
    ),
    benchmark=Benchmark(
        studies={"shapes": ([(8, 4096, 256), (2, 65536, 64)], [torch.float32])},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
        scales=True,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[
            *(dict(dtype=torch.float32, nonlinearity=name) for name in NONLINEARITIES),
            *(dict(dtype=torch.bfloat16, nonlinearity=name) for name in USUAL),
            *(
                dict(dtype=dtype, nonlinearity=name, paired=True)
                for dtype, name in product((torch.float32, torch.bfloat16), USUAL)
            ),
        ],
        others=[
            dict(gated=True),
            *(
                dict(dtype=dtype, nonlinearity=name, length=SHORT, num_sms=FEWER)
                for dtype, name in product((torch.float32, torch.bfloat16), USUAL)
            ),
            dict(width=RAGGED, packed=True, length=SHORT, num_sms=SPLIT),
            # Parallel in time, in the narrowest blocks
            dict(nonlinearity="tanh", num_sms=SPLIT),
            dict(dtype=torch.bfloat16, nonlinearity="hardtanh", num_sms=SPLIT),
            *(dict(dtype=torch.float64, nonlinearity=name, num_sms=SPLIT) for name in USUAL),
            dict(width=RAGGED, packed=True, length=LONG, num_sms=SPLIT),
            dict(dtype=torch.bfloat16, nonlinearity="tanh", width=FEW, states=False, num_sms=SPLIT),
            dict(nonlinearity="tanh", gated=True, resets=True, num_sms=SPLIT),
            dict(dtype=torch.bfloat16, gated=True, resets=True),
            dict(dtype=torch.float64, nonlinearity="tanh", gated=True, resets=True, width=RAGGED, packed=True),
            dict(resets=True, num_sms=SPLIT),
            dict(dtype=torch.bfloat16, nonlinearity="tanh", resets=True, paired=True),
            dict(dtype=torch.bfloat16, sliced=True),
            dict(transposed=True),
            dict(width=RAGGED),
            *(dict(dtype=torch.float64, nonlinearity=name) for name in NONLINEARITIES),
            *(dict(dtype=dtype, nonlinearity="tanh", width=RAGGED) for dtype in (torch.bfloat16, torch.float64)),
            dict(width=RAGGED, packed=True),
            dict(width=FEW, states=False),
            *(dict(parameterization=name, discretization="exact") for name in PARAMETERIZATIONS),
            dict(dtype=torch.float64, nonlinearity="tanh", parameterization="softplus", discretization="exact"),
            *(dict(nonlinearity=name, paired=True) for name in NONLINEARITIES if name not in USUAL),
            dict(nonlinearity="tanh", num_sms=SPLIT, paired=True),
            dict(dtype=torch.bfloat16, nonlinearity="hardtanh", num_sms=SPLIT, paired=True),
            dict(dtype=torch.float64, nonlinearity="tanh", num_sms=SPLIT, paired=True),
            *(dict(dtype=torch.float64, nonlinearity=name, paired=True) for name in USUAL),
            dict(dtype=torch.bfloat16, sliced=True, paired=True),
            dict(width=RAGGED, packed=True, paired=True),
            dict(dtype=torch.bfloat16, nonlinearity="tanh", width=RAGGED, paired=True),
            dict(width=FEW_PAIRS, states=False, paired=True),
        ],
        bytes_per_element=bytes_per_element,
    ),
)
