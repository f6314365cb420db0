import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import NONLINEARITIES, linear_scan, rnn_scan

ACTS: dict[str, Callable[[float], float]] = {
    "linear": lambda z: z,
    "tanh": math.tanh,
    "hardtanh": lambda z: min(max(z, -1.0), 1.0),
    "relu": lambda z: max(z, 0.0),
}
SHAPES = [(1, 0, 1), (2, 0, 3), (1, 1, 1), (2, 2, 3), (3, 7, 40), (2, 33, 1)]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_against_python_floats(shape: tuple[int, int, int], name: str, dt: float) -> None:
    batch, length, size = shape
    x, rate, h0 = 2 * random(*shape), random(size, seed=1).abs(), random(batch, size, seed=2)
    h, h_last = rnn_scan(x, rate, h0, dt=dt, nonlinearity=name)
    expected = torch.zeros_like(x)
    for b in range(batch):
        for i in range(size):
            state, a = float(h0[b, i]), float(rate[i])
            for t in range(length):
                state += dt * ACTS[name](float(x[b, t, i]) - a * state)
                expected[b, t, i] = state
    # Contractions round the state once or twice a step; rates above 2 amplify, at most |1 - a|.
    growth = max(1.0, float((1 - dt * rate).abs().max())) ** length
    torch.testing.assert_close(h, expected, rtol=1e-13, atol=1e-15 * (length + 1) * growth)
    assert torch.equal(h_last, h[:, -1] if length else h0)


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("shape", [(2, 0, 2), (1, 1, 2), (3, 7, 6)])
def test_pairs_against_python_floats(shape: tuple[int, int, int], name: str) -> None:
    """h <- h + dt act(x - A h), A = [[r, -w], [w, r]] for channels (2k, 2k + 1)."""
    batch, length, size = shape
    dt, x, h0 = 0.5, 2 * random(*shape), random(batch, size, seed=2)
    rate, frequency = random(size // 2, seed=1).abs(), random(size // 2, seed=3)
    h, h_last = rnn_scan(x, rate, h0, dt=dt, nonlinearity=name, frequency=frequency)
    expected = torch.zeros_like(x)
    for b in range(batch):
        for k in range(size // 2):
            p, q = float(h0[b, 2 * k]), float(h0[b, 2 * k + 1])
            r, w = float(rate[k]), float(frequency[k])
            for t in range(length):
                u = ACTS[name](float(x[b, t, 2 * k]) - (r * p - w * q))
                v = ACTS[name](float(x[b, t, 2 * k + 1]) - (w * p + r * q))
                p, q = p + dt * u, q + dt * v
                expected[b, t, 2 * k], expected[b, t, 2 * k + 1] = p, q
    growth = max(1.0, float(((1 - dt * rate).square() + (dt * frequency).square()).sqrt().max())) ** length
    torch.testing.assert_close(h, expected, rtol=1e-13, atol=1e-14 * (length + 1) * growth)
    assert torch.equal(h_last, h[:, -1] if length else h0)


def test_linear_pairs_are_the_complex_linear_scan() -> None:
    """H = h[2k] + i h[2k+1] decays by 1 - dt (r + i w) a step."""
    x, h0 = random(2, 20, 6), random(2, 6, seed=2)
    rate, frequency = random(3, seed=1).abs() / 2, random(3, seed=3)
    h, _ = rnn_scan(x, rate, h0, dt=0.5, nonlinearity="linear", frequency=frequency)
    inputs, start = (torch.view_as_complex(t.unflatten(-1, (3, 2))) for t in (0.5 * x, h0))
    expected, _ = linear_scan(inputs, 1 - 0.5 * torch.complex(rate, frequency), start)
    torch.testing.assert_close(h, torch.view_as_real(expected).flatten(-2))


def test_pairs_that_do_not_turn_are_units() -> None:
    x, rate, h0 = random(2, 20, 6), random(3, seed=1).abs(), random(2, 6, seed=2)
    pairs, _ = rnn_scan(x, rate, h0, nonlinearity="tanh", frequency=torch.zeros_like(rate))
    torch.testing.assert_close(pairs, rnn_scan(x, rate.repeat_interleave(2), h0, nonlinearity="tanh")[0])


def test_linear_is_the_linear_scan() -> None:
    x, rate, h0 = random(2, 20, 3), random(3, seed=1).abs() / 2, random(2, 3, seed=2)
    h, _ = rnn_scan(x, rate, h0, dt=0.5, nonlinearity="linear")
    torch.testing.assert_close(h, linear_scan(0.5 * x, 1 - 0.5 * rate, h0)[0])


def test_hardtanh_is_linear_until_it_saturates_and_then_grows_by_dt() -> None:
    rate = torch.tensor([0.25], dtype=torch.float64)
    quiet = 0.2 * torch.sin(torch.arange(50, dtype=torch.float64))[None, :, None]
    assert torch.equal(rnn_scan(quiet, rate)[0], rnn_scan(quiet, rate, nonlinearity="linear")[0])
    loud = torch.full((1, 50, 1), 1e6, dtype=torch.float64)
    steps = torch.arange(1, 51, dtype=torch.float64)
    assert torch.equal(rnn_scan(loud, rate, dt=0.5)[0].flatten(), 0.5 * steps)


def test_rate_above_two_diverges_or_oscillates() -> None:
    x, h0 = torch.zeros(1, 40, 1, dtype=torch.float64), torch.full((1, 1), 0.5, dtype=torch.float64)
    rate = torch.tensor([3.0], dtype=torch.float64)
    linear = rnn_scan(x, rate, h0, nonlinearity="linear")[0].flatten()
    steps = torch.arange(1, 41, dtype=torch.float64)
    assert torch.equal(linear, 0.5 * (-2.0) ** steps)
    bounded = rnn_scan(x, rate, h0)[0].flatten()
    assert torch.equal(bounded, 0.5 * (-1.0) ** steps)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_first_and_second_derivatives(name: str) -> None:
    # Seeded away from the kinks; all pieces of hardtanh and relu occur.
    arguments = (
        2 * random(2, 4, 3).requires_grad_(),
        (0.2 + random(3, seed=1).abs()).requires_grad_(),
        random(2, 3, seed=2).requires_grad_(),
    )

    def scan(x: Tensor, rate: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return rnn_scan(x, rate, h0, dt=0.7, nonlinearity=name)

    assert torch.autograd.gradcheck(scan, arguments)
    assert torch.autograd.gradgradcheck(scan, arguments)


@pytest.mark.parametrize("starts", [[0], [0, 4], [0, 1, 1, 6, 9]])
@pytest.mark.parametrize("paired", [False, True])
def test_packed_sequences_do_not_meet(paired: bool, starts: list[int]) -> None:
    x, h0 = random(1, 9, 2).requires_grad_(), random(len(starts), 2, seed=2)
    rate = torch.tensor([0.3] if paired else [0.1, 0.9], dtype=torch.float64)
    kind: dict[str, Any] = dict(dt=0.5, nonlinearity="tanh", frequency=torch.ones_like(rate) if paired else None)
    h, h_last = rnn_scan(x, rate, h0, seq_starts=torch.tensor(starts), **kind)
    for i, (a, b) in enumerate(zip(starts, [*starts[1:], 9], strict=True)):
        alone, last = rnn_scan(x[:, a:b], rate, h0[i : i + 1], **kind)
        assert torch.equal(h[:, a:b], alone)
        assert torch.equal(h_last[i : i + 1], last)
        (leak,) = torch.autograd.grad(h[:, a:b].sum() + h_last[i].sum(), x, retain_graph=True)
        assert not leak[:, :a].any() and not leak[:, b:].any()


def test_sixteen_bit_input_has_a_float32_state() -> None:
    x, rate = torch.ones(1, 3000, 1, dtype=torch.bfloat16), torch.zeros(1)
    h, h_last = rnn_scan(x, rate)
    assert h.dtype == h_last.dtype == torch.bfloat16
    assert torch.equal(h.flatten(), torch.arange(1, 3001).to(torch.bfloat16))


def test_empty_time_keeps_the_graph() -> None:
    x = torch.zeros(2, 0, 3, requires_grad=True)
    rate, h0 = torch.ones(3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    h, h_last = rnn_scan(x, rate, h0)
    gradients = torch.autograd.grad(h.sum() + h_last.sum(), (x, rate, h0))
    assert torch.equal(gradients[2], torch.ones(2, 3))


def test_unknown_nonlinearity() -> None:
    with pytest.raises(ValueError, match="nonlinearity"):
        rnn_scan(torch.zeros(1, 1, 1), torch.ones(1), nonlinearity="gelu")


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_rates_of_every_step(name: str) -> None:
    """Equal rates are one rate; with a rate of 1 / dt, a step forgets what it can."""
    x, h0 = torch.linspace(-0.9, 0.9, 12).view(2, 3, 2), torch.tensor([[0.5, -0.5], [0.1, 0.2]])
    rate = torch.tensor([0.3, 1.2])
    for same, varying in zip(
        rnn_scan(x, rate, h0, dt=0.5, nonlinearity=name), rnn_scan(x, rate.expand_as(x), h0, dt=0.5, nonlinearity=name),
        strict=True,
    ):  # fmt: skip
        assert torch.equal(same, varying)
    rates = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    rates[:, -1] = 2.0
    h, _ = rnn_scan(x, rates, h0, dt=0.5, nonlinearity="linear")
    torch.testing.assert_close(h[:, -1], x[:, -1] / 2)
