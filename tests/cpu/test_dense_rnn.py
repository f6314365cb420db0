"""The dense recurrence on the CPU: products in panels, threads, saturation, unstable steps."""

from __future__ import annotations

import pytest
import torch
from scan_cases import CPU_BACKENDS, dense_case, normal

from cofm_triton import reference
from cofm_triton.functional import dense_rnn
from cofm_triton.ops.backends import INSTALLED
from cofm_triton.step.nonlinearity import NONLINEARITIES


@pytest.mark.skipif(not INSTALLED["numba"], reason="numba is not installed")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "size"), [(4, 1), (4, 16), (8, 17), (12, 70)])
def test_products_in_panels(rows: int, size: int, dtype: torch.dtype) -> None:
    from cofm_triton.cpu.jit.product import multiply, panels

    left, matrix = normal(rows, size, dtype=dtype), normal(size, size, dtype=dtype, seed=1)
    cut = panels(matrix)
    out = torch.full((rows, cut.shape[0] * cut.shape[2]), torch.nan, dtype=dtype)
    multiply(left.numpy(), cut.numpy(), out.numpy())
    scale = left.abs().double() @ matrix.abs().double()
    error = (out[:, :size].double() - left.double() @ matrix.double()).abs()
    assert (error <= size * torch.finfo(dtype).eps / 2 * scale).all()
    assert not out[:, size:].any()


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("batch", [1, 5, 35])
def test_threads_share_the_batch(batch: int, backend: str) -> None:
    """Each sequence comes out the same, whoever runs it and beside whatever others; 35 are more than go together."""
    case = dense_case(batch, 40, 33)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        several = case.run(backend)
        torch.set_num_threads(1)
        one = case.run(backend)
    finally:
        torch.set_num_threads(threads)
    case.check(backend)
    if backend == "numba":
        assert all(torch.equal(several[name], one[name]) for name in ("h", "h_last", "grad_x", "grad_h0"))


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
def test_steps_beyond_the_stable_one_stay_bounded(nonlinearity: str, backend: str) -> None:
    # dt * weight has eigenvalues above 2: a linear model grows, a saturating one keeps |h[t]| <= dt (t + 1).
    x, weight = normal(1, 200, 3, dtype=torch.float64), 3 * torch.eye(3, dtype=torch.float64) + 0.1
    h, _ = dense_rnn(x, weight, nonlinearity=nonlinearity, backend=backend)
    assert (h.abs().amax((0, 2)) <= torch.arange(1, 201)).all()
    # A step rounds numbers of up to 34 a few times, and multiplies earlier errors by at most |1 - 3.1| + 2 * 0.1 = 2.3.
    expected, _ = reference.dense_rnn(x[:, :10], weight, nonlinearity=nonlinearity)
    torch.testing.assert_close(h[:, :10], expected, rtol=0, atol=64 * 2.3**10 * 2.0**-52)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
@pytest.mark.parametrize("nonlinearity", NONLINEARITIES)
def test_non_finite_inputs(nonlinearity: str, backend: str) -> None:
    x, weight = torch.zeros(2, 6, 3), 0.5 * torch.eye(3)
    x[0, 2] = torch.tensor([torch.inf, 0.0, 0.0])
    x[1, 3] = torch.tensor([0.0, torch.nan, 0.0])
    expected = reference.dense_rnn(x, weight, nonlinearity=nonlinearity)[0]
    actual = dense_rnn(x, weight, nonlinearity=nonlinearity, backend=backend)[0]
    torch.testing.assert_close(actual, expected, equal_nan=True, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dt", [1e-3, 1.9, 6.0])  # eigenvalues of the matrix are 0.25 to 0.75
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_step_sizes(backend: str, dt: float) -> None:
    for nonlinearity in NONLINEARITIES:
        dense_case(2, 8, 3, nonlinearity=nonlinearity, dt=dt).check(backend)
