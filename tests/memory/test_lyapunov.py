"""The largest Lyapunov exponent: closed forms, Jacobians multiplied one by one, measured warm-ups, bad arguments."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev

import cofm_triton as cofm
from cofm_triton.cpu.guess import MARGIN, guess_steps
from cofm_triton.memory.lyapunov import lyapunov_exponent, warm_up_steps


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stable(**options: Any) -> Callable[[], nn.Module]:
    return lambda: cofm.StableRNN(2, 3, batch_first=True, **options)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: nn.RNN(2, 3, batch_first=True),
    "GRU": lambda: nn.GRU(2, 3, num_layers=2, batch_first=True),
    "LSTM": lambda: nn.LSTM(2, 3, batch_first=True),
    "ssm": stable(num_layers=2),
    "diagonal": stable(recurrence="diagonal", nonlinearity="tanh", oscillating=False),
    "pairs": stable(recurrence="diagonal", nonlinearity="hardtanh"),
    "dense": stable(recurrence="dense", nonlinearity="tanh"),
    "gates": stable(gated="rg_lru"),
    "read-out": lambda: cofm.RNNFunctional(2, 3, nonlinearity="tanh"),
    "residual": lambda: cofm.ResidualStack(2, 4, num_layers=1, batch_first=True),
}


def tensors(state: Any) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("name", MODELS)
def test_products_of_jacobians(name: str) -> None:
    """Every Jacobian in reverse mode, step by step, times the same first difference."""
    torch.manual_seed(0)
    model, x = MODELS[name]().eval(), randn(1, 21, 2)
    found = lyapunov_exponent(model, x, transient=0, seed=3)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())  # as it was
    model.double()
    options = {"return_state": True} if isinstance(model, cofm.RNNFunctional) else {}
    state = model(x[:, :1], **options)[1]
    generator = torch.Generator().manual_seed(3)
    v = torch.cat([torch.randn(h.shape, generator=generator, dtype=h.dtype).flatten() for h in tensors(state)])
    start = v.norm()

    def flat(k: int) -> Callable[[Tensor], Tensor]:
        def step(numbers: Tensor) -> Tensor:
            sizes = [h.numel() for h in tensors(state)]
            parts = [p.view(h.shape) for p, h in zip(numbers.split(sizes), tensors(state), strict=True)]
            after = model(x[:, k : k + 1], tuple(parts) if isinstance(state, tuple) else parts[0], **options)[1]
            return torch.cat([h.flatten() for h in tensors(after)])

        return step

    numbers = torch.cat([h.detach().flatten() for h in tensors(state)])
    for k in range(1, 21):
        v = jacrev(flat(k))(numbers) @ v
        numbers = flat(k)(numbers).detach()
    assert found.steps == 20
    assert found.largest == pytest.approx(float((v.detach().norm() / start).log()) / 20, rel=1e-9)


def test_closed_forms() -> None:
    """A chaotic map; the slowest mode of a linear layer; differences beyond float64's range, and none at all."""
    start = torch.rand(8, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    chaos = lyapunov_exponent(lambda x, h: 4 * h * (1 - h), torch.zeros(8, 300, 1), start)
    assert abs(chaos.mean - math.log(2)) < 4 * chaos.error < 0.1
    assert chaos.warm_up_steps() is None and "0.69" in str(chaos)
    layer = cofm.StableRNN(1, 5, batch_first=True, learnable_dt=True)
    slowest = lyapunov_exponent(layer, randn(2, 600, 1), transient=500)
    assert slowest.largest == pytest.approx(-layer.stability_margin(), rel=1e-6)
    tiny = lyapunov_exponent(lambda x, h: 1e-60 * h + x, randn(2, 40, 1), torch.zeros(2, 1))
    torch.testing.assert_close(tiny.values, torch.full((2,), math.log(1e-60), dtype=torch.float64))
    gone = lyapunov_exponent(lambda x, h: (0 * h[0] + x, h[1]), randn(2, 40, 1), (torch.zeros(2, 1), torch.zeros(2, 1)))
    assert gone.largest == pytest.approx(0, abs=0.1)  # the second part of the state stays
    none = lyapunov_exponent(lambda x, h: 0 * h + x, randn(2, 40, 1), torch.zeros(2, 1))
    assert none.largest == -math.inf and none.warm_up_steps() == 1


class Scan(nn.Module):
    """`rnn_scan` with one rate for all units."""

    def __init__(self, nonlinearity: str, rate: float) -> None:
        super().__init__()
        self.nonlinearity, self.rate = nonlinearity, rate

    def forward(self, x: Tensor, h: Tensor | None = None) -> tuple[Tensor, Tensor]:
        rate = torch.full(x.shape[2:], self.rate, dtype=x.dtype)
        return cofm.rnn_scan(x, rate, h, nonlinearity=self.nonlinearity)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("nonlinearity", ["tanh", "hardtanh"])
def test_measured_warm_ups(nonlinearity: str, scale: float) -> None:
    """How long chains take until they have the bits of the whole sequence, from 32 guesses of zero.

    A difference has to fade into rounding, and half of the chains of 4 units meet within the steps that are predicted;
    all of them within as many more as it takes e^-8 of the numbers to meet. The rule of today's chains knows no inputs.
    """
    scan, every, reach = Scan(nonlinearity, 0.2), 40, 800
    x = (scale * randn(1, 32 * every + reach, 4)).float()
    h, _ = scan(x)
    starts = range(every, 33 * every, every)
    guessed, _ = scan(torch.cat([x[:, s : s + reach] for s in starts]))
    wrong = (guessed != torch.cat([h[:, s : s + reach] for s in starts])).any(2)
    measured = sorted(int(row.nonzero().max()) + 1 for row in wrong)
    exponent = lyapunov_exponent(scan, x)
    predicted = exponent.warm_up_steps()
    assert predicted is not None and -0.2 / 0.8 < exponent.largest < 0
    fade = -math.log(torch.finfo(torch.float32).eps) / -exponent.largest
    assert fade <= measured[16] <= predicted
    assert measured[-1] <= predicted + 8 / -exponent.largest < reach
    rule = guess_steps(np.full(4, 1 - 0.2, np.float32), MARGIN)
    assert rule is not None and (predicted < rule) == (scale < 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(inputs=torch.zeros(2, 5)), r"inputs must have shape \(N, T, d\)"),
        (dict(inputs=torch.zeros(2, 5, 2, dtype=torch.int64)), "inputs must be a real floating-point tensor"),
        (dict(model="tanh"), "model must be a torch.nn.Module or a function"),
        (dict(model=lambda x, h: h), "hx must be given for a function"),
        (dict(model=nn.Linear(2, 2)), "model must return its output and its state, got Tensor from Linear"),
        (dict(model=nn.GRU(2, 3)), "make it with batch_first=True"),
        (dict(model=nn.GRU(2, 3, batch_first=True, bidirectional=True)), "model must be causal"),
        (dict(model=lambda x, h: h, hx=torch.zeros(3, 1)), r"N = 2, that of inputs, got \(3, 1\)"),
        (dict(model=lambda x, h: h, hx=(1.0,)), "a state must be a tensor or a tuple of tensors, got float"),
        (dict(transient=4), "transient must leave steps to average over"),
        (dict(seed=-1), "seed must be at least 0"),
    ],
)
def test_errors(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = dict(model=nn.RNN(2, 3, batch_first=True), inputs=torch.zeros(2, 5, 2)) | change
    with pytest.raises((TypeError, ValueError), match=message):
        lyapunov_exponent(**given)


def test_warm_up_steps() -> None:
    assert warm_up_steps(-math.inf) == 1
    assert warm_up_steps(-1e-3, torch.bfloat16) == warm_up_steps(-1e-3) == 23_943
    assert warm_up_steps(0.5) is None
    with pytest.raises(ValueError, match="exponent must be a number, got nan"):
        warm_up_steps(math.nan)
    with pytest.raises(TypeError, match="dtype must be one of"):
        warm_up_steps(-1.0, torch.int64)
