"""Calls of `cofm_triton.rnn_scan`: every nonlinearity, packed, by both solvers."""

from __future__ import annotations

from functools import partial

import torch

from cofm_triton.evidence.tolerance import rnn_scan_bounds
from cofm_triton.evidence.validation.case import Case
from cofm_triton.evidence.validation.draws import away_from_kinks, normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.functional import rnn_scan
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.ops.newton import ACCEPTED
from cofm_triton.ops.step_rate import step_rate
from cofm_triton.step.activation import activation
from cofm_triton.step.nonlinearity import NONLINEARITIES
from cofm_triton.step.parameterization import parameterization as look_up

PLAIN = dict(parameterization="direct", discretization="euler")


def rnn_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, starts: list[int] | None = None, solver: str = "sequential", seed: int = 0,
    parameterization: str = "direct", discretization: str = "euler",
) -> Case:  # fmt: skip
    """A nonlinear scan whose pre-activations keep away from the kinks of hardtanh and relu.

    They are drawn first, and x is what leads to them. Rates that a parameterisation cannot express become ones it can.
    """
    state, seed = state_dtype(dtype), 10 * seed
    sequences = batch if starts is None else len(starts)
    rate = 0.05 + 0.9 * normal(channels, dtype=torch.float64, seed=seed + 5).abs() / 2
    raw = dict(parameterization=parameterization, discretization=discretization)
    if raw == PLAIN:
        raw = {}  # the definition takes rates, and no such options
    kind = look_up(parameterization)
    factor = kind.inverse(rate.clamp(max=min(1.2, 0.9 * kind.range.high))).to(state)
    rate = step_rate(factor.double(), dt, parameterization, discretization)
    h0 = torch.zeros(sequences, channels, dtype=state)
    if states:
        h0 = normal(sequences, channels, dtype=state, seed=seed + 2)
    z = away_from_kinks(batch, length, channels, seed=seed + 6)
    x = torch.empty(batch, length, channels, dtype=dtype)
    act = activation(nonlinearity)
    now = h0.double()
    for t in range(length):
        if starts is not None and t in starts:
            entered = max(i for i, start in enumerate(starts) if start == t)
            now = h0[entered : entered + 1].double()
        x[:, t] = z[:, t] + rate * now
        now = now + dt * act(x[:, t].double() - rate * now)
    return Case(
        x=x,
        factor=factor,
        h0=h0 if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        grad_last=normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
        options=dict(
            dt=dt, nonlinearity=nonlinearity, seq_starts=None if starts is None else torch.tensor(starts), **raw
        ),
        call=partial(rnn_scan, solver=solver),
        bounds_of=partial(rnn_scan_bounds, drive=ACCEPTED if solver == "newton" else 1.0),
        names=("grad_x", "grad_rate", "grad_h0"),
    )  # fmt: skip


OPERATOR = Operator(
    name="rnn_scan",
    draws={
        **{name: partial(rnn_case, nonlinearity=name) for name in NONLINEARITIES},
        "tanh+packed": partial(rnn_case, nonlinearity="tanh"),
        "tanh+newton": partial(rnn_case, nonlinearity="tanh", solver="newton"),
        "hardtanh+newton": partial(rnn_case, nonlinearity="hardtanh", solver="newton"),
    },
    dtypes=REAL_DTYPES,
)
