"""Calls of `cofm_triton.dense_rnn`: every nonlinearity."""

from __future__ import annotations

from functools import partial

import torch

from cofm_triton.evidence.tolerance import dense_rnn_bounds
from cofm_triton.evidence.validation.case import Case
from cofm_triton.evidence.validation.draws import away_from_kinks, normal
from cofm_triton.evidence.validation.problem import Operator
from cofm_triton.functional import dense_rnn
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.step.activation import activation
from cofm_triton.step.nonlinearity import NONLINEARITIES


def dense_case(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, nonlinearity: str = "hardtanh",
    states: bool = True, dt: float = 0.7, precision: str = "ieee", wide: bool = True, seed: int = 0,
) -> Case:  # fmt: skip
    """A dense recurrence whose pre-activations keep away from kinks.

    Its matrix is W = I / 2 + C with rows of C that sum to at most 1 / 4: no step enlarges an error, for any slope. It
    is in the state's dtype, or, not `wide`, in that of x.
    """
    state, seed = state_dtype(dtype), 10 * seed
    coupling = normal(channels, channels, dtype=torch.float64, seed=seed + 5)
    coupling = coupling / (4 * coupling.abs().sum(1).amax())
    weight = (0.5 * torch.eye(channels, dtype=torch.float64) + coupling).to(state if wide else dtype)
    h0 = torch.zeros(batch, channels, dtype=state)
    if states:
        h0 = normal(batch, channels, dtype=state, seed=seed + 2)
    z = away_from_kinks(batch, length, channels, seed=seed + 6)
    x = torch.empty(batch, length, channels, dtype=dtype)
    now = h0.double()
    for t in range(length):
        turned = now @ weight.double().T
        x[:, t] = z[:, t] + turned
        now = now + dt * activation(nonlinearity)(x[:, t].double() - turned)
    return Case(
        x=x,
        factor=weight,
        h0=h0 if states else None,
        grad_h=normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        grad_last=normal(batch, channels, dtype=state if states else dtype, seed=seed + 4),
        options=dict(dt=dt, nonlinearity=nonlinearity),
        call=partial(dense_rnn, precision=precision),
        bounds_of=dense_rnn_bounds,
        names=("grad_x", "grad_weight", "grad_h0"),
    )


OPERATOR = Operator(
    name="dense_rnn",
    draws={name: partial(dense_case, nonlinearity=name) for name in NONLINEARITIES},
    dtypes=REAL_DTYPES,
    functions={"forward": "forward", "backward": "adjoint"},
    largest=64,
)
