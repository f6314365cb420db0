"""What other libraries promise of their recurrences, asked of ours: their shapes and hard cases, written anew.

Tolerances are theirs or tighter: where they average a loss over a long sequence, which makes gradients vanish next to
an absolute tolerance, ours are compared as shares of the largest gradient. Exact results come from plain loops in
float64. All of it runs on the CPU's backends.

- accelerated-scan `tests/test_eq.py`, `tests_eq_complex.py`: gates from 0 to 1 and complex ones of radius 0.99 to 1,
  odd lengths, up to 131,072 steps; atol 1e-7 and rtol 1.3e-6, complex atol 1e-5 and rtol 1e-4.
- flash-linear-attention `tests/ops/test_hgrn.py`: 500 and 1000 channels, 63 steps, initial and final states and their
  gradients, packed; relative root mean square 0.005.
- accelerated-model-architectures `tests/layers/rnn_test.py`: tanh, packed at 0, 7, 19, 27, 93; gradients of x to 4e-4,
  of h0 to 8.2e-4, of the recurrent weight to 2.2e-4.
- mamba `tests/test_determinism.py`: forward and backward pass repeat bit for bit.
- DEER `tests/test_deer.py`: the fast recurrence is the loop, to 1e-6 in float64.
- lrnnx `tests/models/test_lti/test_lru.py`: step by step is the whole, 8 to 8192 steps, to 3e-3 and 5e-3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scan_cases import CPU_BACKENDS, decays, linear_case, normal, rnn_case
from torch import Tensor

from cofm_triton.functional import linear_scan, rnn_scan
from cofm_triton.layers.stable_rnn import StableRNN

ODD_LENGTHS = (16_323, 33_753, 127_323)
HARD_LENGTH = 131_072


def loop(gates: Tensor, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`(h, grad_x, grad_gates)` of one sequence, (T, D) each, step by step in double precision."""
    wide = np.complex128 if x.is_complex() or gates.is_complex() else np.float64
    a, u, g = (tensor.detach().numpy().astype(wide) for tensor in (gates, x, grad))
    h, adjoint = np.empty_like(u), np.empty_like(u)
    state = np.zeros_like(u[0])
    for t in range(len(u)):
        state = a[t] * state + u[t]
        h[t] = state
    state = np.zeros_like(u[0])
    for t in reversed(range(len(u))):
        state = g[t] + state
        adjoint[t] = state
        state = a[t].conj() * state
    before = np.concatenate([np.zeros_like(h[:1]), h[:-1]])
    return torch.from_numpy(h), torch.from_numpy(adjoint), torch.from_numpy(adjoint * before.conj())


def as_share(actual: Tensor, exact: Tensor) -> tuple[Tensor, Tensor]:
    """Both as shares of the largest exact value."""
    largest = exact.abs().max()
    return actual[0].to(exact.dtype) / largest, exact / largest


@pytest.mark.parametrize("length", ODD_LENGTHS)
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_odd_lengths(backend: str, length: int) -> None:
    generator = torch.Generator().manual_seed(3407)
    gates, x = (torch.rand(1, length, 5, generator=generator).requires_grad_() for _ in range(2))
    h, _ = linear_scan(x, gates, backend=backend)
    grads = torch.autograd.grad(h.sum(), [x, gates])
    exact = loop(gates[0], x[0], torch.ones_like(x[0]))
    torch.testing.assert_close(h[0].double(), exact[0], atol=1e-7, rtol=1.3e-6)
    for actual, expected in zip(grads, exact[1:], strict=True):
        torch.testing.assert_close(*as_share(actual, expected), atol=1e-7, rtol=1.3e-6)


@pytest.mark.parametrize("loss", ["real", "imag", "square"])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_complex_gates_that_hardly_forget(backend: str, loss: str) -> None:
    generator = torch.Generator().manual_seed(11)
    radius, angle, x = (torch.rand(1, HARD_LENGTH, 3, generator=generator) for _ in range(3))
    gates = torch.polar(0.99 + 0.01 * radius, 2 * torch.pi * angle).requires_grad_()
    inputs = torch.complex(2 * x - 1, 1 - x).tanh().requires_grad_()
    h, _ = linear_scan(inputs, gates, backend=backend)
    losses = {"real": h.real.sum(), "imag": h.imag.sum(), "square": h.abs().square().sum() / 2}
    grads = torch.autograd.grad(losses[loss], [inputs, gates])
    pull = {"real": torch.ones_like(h), "imag": torch.ones_like(h) * 1j, "square": h}[loss]
    exact = loop(gates[0], inputs[0], pull[0])
    torch.testing.assert_close(h[0].to(torch.complex128), exact[0], atol=1e-5, rtol=1e-4)
    for actual, expected in zip(grads, exact[1:], strict=True):
        torch.testing.assert_close(*as_share(actual, expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("length", "channels"), [(63, 500), (200, 1000)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_uneven_channels_with_states(backend: str, length: int, channels: int, packed: bool) -> None:
    starts = [0, 15, 16, 60] if packed else None
    case = linear_case(1, length, channels, gated=True, starts=starts)
    bounds, results = case.bounds(), case.run(backend)
    for name, actual in results.items():
        exact = bounds[name].exact
        assert (actual - exact).square().mean().sqrt() <= 0.005 * exact.square().mean().sqrt(), name


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_packed_tanh(backend: str) -> None:
    case = rnn_case(1, 110, 16, nonlinearity="tanh", starts=[0, 7, 19, 27, 93], dt=1.0)
    bounds, results = case.bounds(), case.run(backend)
    for name, tolerance in {"h": 2.2e-4, "grad_x": 4e-4, "grad_h0": 8.2e-4, "grad_rate": 2.2e-4}.items():
        torch.testing.assert_close(results[name].double(), bounds[name].exact, atol=tolerance, rtol=0)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_repeats_are_bitwise_equal(backend: str) -> None:
    for case in (linear_case(3, 300, 130), linear_case(3, 300, 130, gated=True), rnn_case(3, 300, 130)):
        first, second = case.run(backend), case.run(backend)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("backend", CPU_BACKENDS)
def test_the_nonlinear_recurrence_is_the_loop(backend: str) -> None:
    x, rate = normal(2, 400, 7, dtype=torch.float64), decays(7, dtype=torch.float64).abs()
    h, _ = rnn_scan(x, rate, nonlinearity="tanh", backend=backend)
    state = torch.zeros(2, 7, dtype=torch.float64)
    for t in range(400):
        state = state + torch.tanh(x[:, t] - rate * state)
        torch.testing.assert_close(h[:, t], state, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("options", "length"),
    [
        (dict(recurrence="ssm", parameterization="lru"), 8),
        (dict(recurrence="ssm", parameterization="lru"), 999),
        (dict(nonlinearity="tanh"), 65),
        (dict(nonlinearity="tanh"), 8192),
    ],
)
def test_step_by_step_is_the_whole(options: dict[str, Any], length: int) -> None:
    torch.manual_seed(0)
    layer = StableRNN(3, 6, batch_first=True, **options)
    x = normal(2, length, 3)
    with torch.no_grad():
        whole, last = layer(x)
        state = torch.zeros(1, 2, 6)
        for t in range(length):
            output, state = layer.step(x[:, t], state)
            torch.testing.assert_close(output, whole[:, t], atol=3e-3, rtol=5e-3)
    torch.testing.assert_close(state, last, atol=3e-3, rtol=5e-3)
