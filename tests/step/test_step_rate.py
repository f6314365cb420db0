"""Rates of a step from raw parameters: accuracy, derivatives, and what the scan makes of them on every backend."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from derivatives import check_alike, check_by_differences
from scan_cases import BACKENDS, CPU_BACKENDS, TRITON, device_of, for_backends, rnn_problem
from torch import Tensor

from cofm_triton import reference
from cofm_triton.evidence.tolerance import RATE_ROUNDINGS, unit_roundoff
from cofm_triton.functional import rnn_scan
from cofm_triton.step.discretization import DISCRETIZATIONS
from cofm_triton.step.parameterization import PARAMETERIZATIONS
from cofm_triton.step.step_rate import step_rate, step_rate_slope

DT = 0.7


def exact(w: Tensor, parameterization: str, discretization: str) -> tuple[Tensor, Tensor]:
    """The rate and its derivative by the definitions, float64."""
    wide = w.double().requires_grad_()
    rate = reference.effective_rate(reference.parameterization(parameterization).rate(wide), DT, discretization)
    return rate.detach(), torch.autograd.grad(rate.sum(), wide)[0]


@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_value_and_slope(parameterization: str, discretization: str) -> None:
    w = torch.linspace(-12, 2, 1001)
    if parameterization == "direct":
        w = w.abs()
    rate, slope = exact(w, parameterization, discretization)
    u = RATE_ROUNDINGS * unit_roundoff(torch.float32)
    torch.testing.assert_close(step_rate(w, DT, parameterization, discretization).double(), rate, rtol=u, atol=0)
    # exp(-dt f(w)) multiplies the error of its exponent.
    exponent = DT * reference.parameterization(parameterization).rate(w.double()).max().item()
    torch.testing.assert_close(
        step_rate_slope(w, DT, parameterization, discretization).double(), slope, rtol=u * (2 + exponent), atol=1e-45
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_scan_of_raw_parameters(parameterization: str, discretization: str, backend: str) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        problem = rnn_problem(
            2, 19, 3, dtype=dtype, nonlinearity="tanh", parameterization=parameterization,
            discretization=discretization,
        )  # fmt: skip
        problem.check(backend)


@pytest.mark.parametrize(
    ("backend", "parameterization"), for_backends(CPU_BACKENDS, PARAMETERIZATIONS) + for_backends(TRITON, ["softplus"])
)
@pytest.mark.parametrize("discretization", DISCRETIZATIONS)
def test_derivatives(discretization: str, parameterization: str, backend: str) -> None:
    problem = rnn_problem(
        2, 5, 3, dtype=torch.float64, nonlinearity="tanh", parameterization=parameterization,
        discretization=discretization,
    )  # fmt: skip
    inputs = tuple(t.to(device_of(backend)).requires_grad_() for t in (problem.x, problem["rate"]))

    def run(x: Tensor, w: Tensor, backend: str = backend) -> tuple[Tensor, Tensor]:
        return rnn_scan(
            x, w, dt=DT, nonlinearity="tanh", parameterization=parameterization, discretization=discretization,
            backend=backend,
        )  # fmt: skip

    if backend == "torch":
        check_by_differences(run, inputs)
    else:
        check_alike(run, partial(run, backend="torch"), inputs)


def test_reference_backend_and_bad_names() -> None:
    problem = rnn_problem(2, 5, 3, dtype=torch.float64, parameterization="lru", discretization="exact")
    results = [
        rnn_scan(problem.x, problem["rate"], **problem.options, backend=backend)[0]
        for backend in ("reference", "torch")
    ]
    torch.testing.assert_close(*results, rtol=1e-13, atol=1e-13)
    with pytest.raises(ValueError, match="parameterization must be one of"):
        rnn_scan(problem.x, problem["rate"], parameterization="cosine")
    with pytest.raises(ValueError, match="discretization must be one of"):
        rnn_scan(problem.x, problem["rate"], discretization="midpoint")
