"""`cofm_triton.gated_rnn`: every kind of gates, channels that turn in pairs, packed."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from cofm_triton.evidence.benchmark.shapes import TARGETS
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.launches import SPLIT, WHOLE, Options, meta, sequence
from cofm_triton.evidence.draws import normal, randn, resets, spread_rates
from cofm_triton.evidence.operator import Benchmark, Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import gated_rnn_bounds
from cofm_triton.functional import gated_rnn
from cofm_triton.ops.dtypes import REAL_DTYPES, state_dtype
from cofm_triton.ops.gated_rnn import traffic
from cofm_triton.step.gates import GATES, gates_of


def gated_problem(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, gates: str = "rg_lru",
    turning: bool = False, states: bool = True, starts: list[int] | None = None,
    reset_to: str | None = None, seed: int = 0,
) -> Problem:  # fmt: skip
    """Rates from a hundredth to one, logits a few units wide; one channel more if they turn and are odd. Without
    `reset_to`, no resets.
    """
    state, seed = state_dtype(dtype), 10 * seed
    sequences, channels = batch if starts is None else len(starts), channels + (turning and channels % 2)

    def sequence(scale: float, seed: int) -> torch.Tensor:
        return (scale * normal(batch, length, channels, dtype=torch.float64, seed=seed)).to(dtype)

    rate = torch.exp(-normal(channels, dtype=torch.float64, seed=seed + 1).abs() * 1.5).to(state)
    tensors = {"x": sequence(1, seed), "rate": rate, "rate_logit": sequence(2, seed + 2)}
    if gates_of(gates).has_input_logit:
        tensors["input_logit"] = sequence(2, seed + 3)
    if turning:
        tensors["angle"] = (torch.pi * torch.tanh(normal(channels // 2, dtype=torch.float64, seed=seed + 4))).to(state)
    if states:
        tensors["h0"] = normal(sequences, channels, dtype=state, seed=seed + 5)
    pulls = {
        "grad_h": normal(batch, length, channels, dtype=dtype, seed=seed + 6),
        "grad_last": normal(sequences, channels, dtype=state if states else dtype, seed=seed + 7),
    }
    options: dict[str, Any] = dict(gates=gates, seq_starts=None if starts is None else torch.tensor(starts))
    options |= dict(resets=None, reset_to="h0")
    if reset_to is not None:
        options |= dict(resets=resets(batch, length, seed + 8), reset_to=reset_to)
    return Problem(OPERATOR, tensors, pulls, options)


def timed(case: Case, device: torch.device) -> Problem:
    """RG-LRU's gates: x, rates for memories of every length, both logits, and the gradient of h."""
    tensors = {"x": randn(case, device, 0), "rate": 2 * spread_rates(case, device)}
    tensors |= {"rate_logit": randn(case, device, 2), "input_logit": randn(case, device, 3)}
    return Problem(OPERATOR, tensors, {"grad_h": randn(case, device, 1)})


def launch(
    dtype: torch.dtype = torch.float32, gates: str = "rg_lru", turning: bool = False, packed: bool = False,
    length: int = 4096, width: int = 512, num_sms: int = WHOLE, sliced: bool = False, resets: bool = False,
) -> None:  # fmt: skip
    """Both passes."""
    from triton.runtime import driver

    from cofm_triton.kernels import gated_rnn

    state, row = state_dtype(dtype), gates_of(gates)
    x = sequence(length, width, dtype, sliced)
    rate, turn = meta(width, dtype=state), meta(2, width, dtype=state) if turning else None
    seq_starts = meta(4, dtype=torch.int64) if packed else None
    h0, q = meta(4 if packed else 1, width, dtype=state), x if row.has_input_logit else None
    warp = driver.active.get_current_target().warp_size
    options: dict[str, Any] = dict(gates=row, state_dtype=state, num_sms=num_sms, lanes=warp)
    options["resets"] = meta(1, length, dtype=torch.bool) if resets else None
    gated_rnn.forward(x, x, q, rate, turn, h0, seq_starts, **options)
    h = meta(*x.shape, dtype=dtype)
    gated_rnn.backward(x, h0, x, x, q, rate, turn, h, h0, seq_starts, **options)


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float:
    """Backward, one row of h in ROWS as well."""
    itemsize, backward = options.get("dtype", torch.float32).itemsize, "backward" in kernel
    moved = traffic(1, 1, 1, itemsize, gates=options.get("gates", "rg_lru"), backward=backward)
    return moved + itemsize / constants["ROWS"] * backward


OPERATOR = Operator(
    name="gated_rnn",
    function=gated_rnn,
    bounds=gated_rnn_bounds,
    sequences=("x", "rate_logit", "input_logit", "grad_h"),
    validation=Validation(
        draws={
            **{name: partial(gated_problem, gates=name) for name in GATES},
            "rg_lru+turning": partial(gated_problem, turning=True),
            "minlstm+packed": partial(gated_problem, gates="minlstm"),
            "mingru+turning+packed": partial(gated_problem, gates="mingru", turning=True),
            "rg_lru+resets": partial(gated_problem, reset_to="zero"),
            "s6+turning+packed+resets": partial(gated_problem, gates="s6", turning=True, reset_to="h0"),
        },
        dtypes=REAL_DTYPES,
    ),
    benchmark=Benchmark(
        studies={"targets": (TARGETS, [torch.float32])},
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gates="rg_lru", backward=backward),
        scales=True,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[dict(dtype=torch.float32), dict(dtype=torch.bfloat16), dict(dtype=torch.float32, turning=True)],
        others=[
            dict(dtype=torch.bfloat16, turning=True),
            *(dict(gates=name) for name in GATES[1:]),
            dict(dtype=torch.float64),
            # Both at once leave gfx942 8 scalar registers short, which it keeps in a vector register.
            dict(dtype=torch.float64, gates="minlstm"),
            dict(dtype=torch.float64, turning=True),
            dict(width=500, packed=True),
            dict(dtype=torch.bfloat16, width=500, packed=True, turning=True),
            dict(sliced=True),
            dict(dtype=torch.float32, turning=True, resets=True),
            dict(dtype=torch.bfloat16, resets=True),
            dict(gates="minlstm", resets=True),
            dict(dtype=torch.float32, width=64, num_sms=SPLIT),
            dict(dtype=torch.bfloat16, width=64, num_sms=SPLIT),
        ],
        bytes_per_element=bytes_per_element,
    ),
)
