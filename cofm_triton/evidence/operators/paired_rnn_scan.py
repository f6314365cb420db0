"""`cofm_triton.rnn_scan` with frequencies; a case of D channels is one of D pairs. `rnn_scan` compiles it."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from cofm_triton.evidence.case import Case
from cofm_triton.evidence.draws import away_from_kinks, in_pairs, inputs_to, normal, randn, reset_options, spread_rates
from cofm_triton.evidence.operator import Benchmark, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import paired_rnn_scan_bounds
from cofm_triton.functional import rnn_scan
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.ops.rnn_scan import traffic
from cofm_triton.step.activations import NONLINEARITIES
from cofm_triton.step.oscillation import effective_pair
from cofm_triton.step.parameterization import parameterization as look_up


def paired_problem(
    batch: int, length: int, pairs: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, starts: list[int] | None = None, seed: int = 0,
    parameterization: str = "direct", discretization: str = "exact", reset_to: str | None = None,
) -> Problem:  # fmt: skip
    """Pairs that decay slowly and turn by up to half a turn a step, whose pre-activations keep away from kinks.

    They are drawn first, and x is what leads to them. Rates that a parameterisation cannot express become ones it can.
    Euler's pairs turn as far as leaves them stable. Without `reset_to`, no resets.
    """
    state, seed, channels = state_dtype(dtype), 10 * seed, 2 * pairs
    sequences = batch if starts is None else len(starts)
    rate = 0.05 + 0.9 * normal(pairs, dtype=torch.float64, seed=seed + 5).abs() / 2
    kind = look_up(parameterization)
    rate = rate.clamp(max=min(1.2, 0.9 * kind.range.high))
    raw = kind.inverse(rate).to(state)
    angle = torch.pi * torch.tanh(normal(pairs, dtype=torch.float64, seed=seed + 7))
    if discretization == "euler":
        angle = angle / torch.pi * dt * ((2 / dt - rate) * rate).sqrt()
    frequency = (angle / dt).to(state)
    mode = torch.complex(*effective_pair(kind.rate(raw.double()), frequency.double(), dt, discretization))

    def turned(h: Tensor, t: int) -> Tensor:
        return torch.view_as_real(mode * torch.view_as_complex(h.unflatten(-1, (-1, 2)).contiguous())).flatten(-2)

    h0 = torch.zeros(sequences, channels, dtype=state)
    if states:
        h0 = normal(sequences, channels, dtype=state, seed=seed + 2)
    z = away_from_kinks(batch, length, channels, seed=seed + 6)
    cuts = reset_options(batch, length, reset_to, seed + 8)
    x = inputs_to(z, h0, turned, starts, dt=dt, nonlinearity=nonlinearity, dtype=dtype, **cuts)
    pulls = {
        "grad_h": normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        "grad_last": normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
    }
    options = dict(
        dt=dt, nonlinearity=nonlinearity, parameterization=parameterization, discretization=discretization,
        seq_starts=None if starts is None else torch.tensor(starts), **cuts,
    )  # fmt: skip
    tensors = {"x": x, "rate": raw, "frequency": frequency, **({"h0": h0} if states else {})}
    return Problem(OPERATOR, tensors, pulls, options)


def timed(case: Case, device: torch.device) -> Problem:
    """x, rates and frequencies, by which pairs turn by one radian a step, and the gradient of h."""
    channels, pairs = in_pairs(case)
    rate = spread_rates(pairs, device)
    tensors = {"x": randn(channels, device, 0), "rate": rate, "frequency": torch.ones_like(rate)}
    return Problem(OPERATOR, tensors, {"grad_h": randn(channels, device, 1)}, dict(discretization="exact"))


OPERATOR = Operator(
    name="paired_rnn_scan",
    function=rnn_scan,
    bounds=paired_rnn_scan_bounds,
    validation=Validation(
        draws={
            **{name: partial(paired_problem, nonlinearity=name) for name in NONLINEARITIES},
            "tanh+softplus": partial(paired_problem, nonlinearity="tanh", parameterization="softplus"),
            "tanh+packed": partial(paired_problem, nonlinearity="tanh"),
            "hardtanh+euler": partial(paired_problem, discretization="euler"),
        },
        dtypes=REAL_DTYPES,
        largest=100,  # 70 channels are done in blocks like more of them; bounds follow every error of every step
    ),
    benchmark=Benchmark(
        studies={"shapes": ([(8, 4096, 256)], [torch.float32])},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, backward=backward),
    ),
)
