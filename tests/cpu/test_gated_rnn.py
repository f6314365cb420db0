"""Gated linear recurrences on the CPU: rows in blocks and what they leave, 16 bits, odd strides, logits far out."""

from __future__ import annotations

import pytest
import torch
from scan_cases import CPU_BACKENDS, gated_problem

from cofm_triton import gated_rnn
from cofm_triton.step.gates import GATES


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("turning", [False, True])
def test_within_bounds(turning: bool, gates: str, backend: str) -> None:
    gated_problem(2, 30, 40, gates=gates, turning=turning).check(backend)


@pytest.mark.parametrize("channels", [1, 6, 64, 70, 130])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_narrow_and_wide_rows(dtype: torch.dtype, strided: bool, channels: int) -> None:
    """Several rows in one vector, and what is left over of them; blocks of one row, and what blocks leave."""
    problem = gated_problem(2, 51, channels, turning=channels > 1, dtype=dtype)
    (problem.strided() if strided else problem).check("numba")


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_and_strides(dtype: torch.dtype, backend: str) -> None:
    gated_problem(2, 30, 40, dtype=dtype, states=False).strided().check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_packed(backend: str) -> None:
    gated_problem(1, 30, 40, starts=[0, 7, 7, 20]).check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("gates", GATES)
def test_logits_far_out(gates: str, backend: str) -> None:
    """Where exp leaves the range of float32, results and gradients are finite, and within their bounds elsewhere."""
    problem = gated_problem(2, 20, 40, gates=gates)
    far = torch.tensor([-3e4, -200.0, -95.0, -60.0, 60.0, 95.0, 200.0, 3e4])
    logits = {name: far[torch.randint(8, (2, 20, 40))] for name in ("rate_logit", "input_logit")}
    results = problem.with_(**{name: logits[name] for name in problem.tensors.keys() & logits.keys()}).run(backend)
    assert all(bool(result.isfinite().all()) for result in results.values())
    near = {name: 8 * problem[name] for name in problem.tensors.keys() & logits.keys()}
    problem.with_(**near).check(backend)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_not_a_number_stays_one(backend: str) -> None:
    x = torch.ones(1, 3, 4)
    p = x.clone()
    p[0, 1, 2] = torch.nan
    h, _ = gated_rnn(x, x[0, 0], p, gates="mingru", backend=backend)
    assert h.isnan().sum() == 2 and h[0, 1:, 2].isnan().all()
