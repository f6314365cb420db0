"""Increments under Heaviside inputs: the definition, every regime, and digits that survive any decay."""

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.memory.diagonal import HeavisideCells, slowest_decay
from cofm_triton.ops.memory_increment import traffic
from cofm_triton.reference import Dynamics, frequency_unit, increments
from cofm_triton.step.activation import bodies
from cofm_triton.step.activations import NONLINEARITIES

mpmath = pytest.importorskip("mpmath")  # comes with torch

OPTIONS = list(product(["diagonal", "ssm"], NONLINEARITIES, ["euler", "exact"]))
STEPS = torch.arange(40)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def functional(name: str, **options: Any) -> RNNFunctional:
    return RNNFunctional(2, 5, 3, nonlinearity=name, dtype=torch.float64, **options)


def copies(model: RNNFunctional, raw: Tensor | None = None, count: int = 2) -> dict[str, Tensor]:
    parameters = {name: randn(count, *value.shape, seed=len(name)) for name, value in model.named_parameters()}
    parameters["rnn.rate_l0"] = parameters["rnn.rate_l0"] if raw is None else raw.expand(count, -1)
    return parameters


def expected(parameters: dict[str, Tensor], inputs: Tensor, dynamics: Dynamics) -> Tensor:
    models = range(len(inputs))
    rows = [{name: value[k] for name, value in parameters.items()} for k in models]
    return torch.stack([increments(row, inputs[k], len(STEPS), dynamics) for k, row in zip(models, rows, strict=True)])


def close(actual: Tensor, wanted: Tensor) -> None:
    # Each of 40 steps multiplies the rounding of 40 numbers at most; sums over units cancel a digit or two.
    scale = wanted.abs().amax((0, 1, 2, 3)) * 1e-13
    torch.testing.assert_close(actual, wanted, rtol=1e-10, atol=scale.item())


@pytest.mark.parametrize("size", [0.1, 1.0, 20.0])
@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_definition(recurrence: str, name: str, discretization: str, size: float) -> None:
    options = dict(recurrence=recurrence, discretization=discretization, dt=0.5, parameterization="exp")
    model = functional(name, **options)
    parameters, inputs = copies(model), size * randn(2, 7, 2)
    cells = HeavisideCells.of(model, parameters)
    wanted = expected(parameters, inputs, Dynamics("exp", recurrence, name, 0.5, discretization))
    close(cells.increments(inputs, STEPS), wanted)
    some = torch.tensor([0, 1, 5, 39])
    close(cells.increments(inputs, some), wanted[:, :, some])


# Rates a dt: growth, none, slow, one step to 0, overshoot, undamped, and beyond, where a unit returns to saturation.
RATES = torch.tensor([-0.3, 0.0, 0.7, 1.0, 1.6, 2.0, 2.6], dtype=torch.float64)


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("rate", RATES.tolist())
def test_every_euler_rate(rate: float, recurrence: str, name: str) -> None:
    options = dict(recurrence=recurrence, discretization="euler", parameterization="direct")
    model = functional(name, **options)
    parameters, inputs = copies(model, torch.full((5,), rate, dtype=torch.float64)), 4 * randn(2, 7, 2)
    cells = HeavisideCells.of(model, parameters)
    assert cells.is_closed == (recurrence == "ssm" or name in ("linear", "relu") or (name == "hardtanh" and rate <= 2))
    wanted = expected(parameters, inputs, Dynamics("direct", recurrence, name, 1.0, "euler"))
    close(cells.increments(inputs, STEPS), wanted)


@pytest.mark.parametrize(("recurrence", "name"), list(product(["diagonal", "ssm"], ["hardtanh", "relu", "linear"])))
def test_an_input_for_every_step(recurrence: str, name: str) -> None:
    model = functional(name, recurrence=recurrence)
    cells = HeavisideCells.of(model, copies(model))
    inputs = 3 * randn(2, 4, len(STEPS), 2)
    paired = cells.increments(inputs, STEPS)
    whole = cells.increments(inputs.flatten(1, 2), STEPS).unflatten(1, inputs.shape[1:3])
    torch.testing.assert_close(paired, whole.diagonal(dim1=2, dim2=3).movedim(-1, 2), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_kernel_of_linear_models(recurrence: str, discretization: str) -> None:
    model = functional("linear", recurrence=recurrence, discretization=discretization, dt=0.3)
    cells, inputs = HeavisideCells.of(model, copies(model)), randn(2, 6, 2)
    kernel = cells.kernel(STEPS)
    extended = torch.cat((inputs, torch.ones(2, 6, 1, dtype=torch.float64)), -1)
    close(torch.einsum("kpcs,knc->knsp", kernel, extended), cells.increments(inputs, STEPS))


@pytest.mark.parametrize("units", [1, 4, 5])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_pairs(discretization: str, units: int) -> None:
    options: dict[str, Any] = dict(discretization=discretization, dt=0.2, oscillating=True, normalize_input=True)
    model = RNNFunctional(2, units, 3, nonlinearity="linear", dtype=torch.float64, **options)
    parameters, inputs = copies(model, -randn(2, (units + 1) // 2).abs()), randn(2, 6, 2)
    cells = HeavisideCells.of(model, parameters)
    dynamics = Dynamics(nonlinearity="linear", **options)
    close(cells.increments(inputs, STEPS), expected(parameters, inputs, dynamics))
    extended = torch.cat((inputs, torch.ones(2, 6, 1, dtype=torch.float64)), -1)
    close(torch.einsum("kpcs,knc->knsp", cells.kernel(STEPS), extended), cells.increments(inputs, STEPS))
    slowest = slowest_decay(model, parameters)
    assert torch.equal(cells.slowest, slowest)
    for k in range(2):
        decay = dynamics.decay({name: value[k] for name, value in parameters.items()})
        assert slowest[k].item() == pytest.approx(-decay.abs().log().max().item() / 0.2, rel=1e-12)


@pytest.mark.parametrize("name", ["hardtanh", "tanh", "relu"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_pairs_behind_a_nonlinearity(discretization: str, name: str) -> None:
    options: dict[str, Any] = dict(discretization=discretization, dt=0.2, oscillating=True, normalize_input=True)
    model = RNNFunctional(2, 5, 3, nonlinearity=name, recurrence="ssm", dtype=torch.float64, **options)
    parameters, inputs = copies(model, -randn(2, 3).abs()), 3 * randn(2, 6, 2)
    cells = HeavisideCells.of(model, parameters)
    assert cells.is_closed
    wanted = expected(parameters, inputs, Dynamics(nonlinearity=name, recurrence="ssm", **options))
    close(cells.increments(inputs, STEPS), wanted)


@pytest.mark.parametrize("raw", [-4.5, 1.0, 2.7])
@pytest.mark.parametrize("angle", [1e-3, 1.0])
@pytest.mark.parametrize("name", ["hardtanh", "tanh", "relu"])
def test_digits_of_pairs_survive_down_to_1e_30(name: str, angle: float, raw: float) -> None:
    model = RNNFunctional(
        1, 2, nonlinearity=name, recurrence="ssm", oscillating=True, parameterization="exp", dtype=torch.float64
    )
    with torch.no_grad():
        for label, value in (("rate_l0", raw), ("frequency_l0", angle), ("bias_l0", 0.0)):
            model.get_parameter(f"rnn.{label}").fill_(value)
        model.rnn.weight_ih_l0.copy_(torch.tensor([[0.7], [0.2]]))
        model.readout.weight.copy_(torch.tensor([[1.0, 0.0]]))
    steps = torch.tensor([0, 1, 2, 5, int(60 / math.exp(raw)) + 1])
    parameters = {label: value.detach()[None] for label, value in model.named_parameters()}
    found = HeavisideCells.of(model, parameters).increments(torch.ones(1, 1, 1).double(), steps)[0, 0, :, 0]
    with mpmath.workdps(400):
        act = {"tanh": mpmath.tanh, "relu": lambda z: max(z, 0), "hardtanh": lambda z: min(max(z, -1), 1)}[name]
        mode = mpmath.mpc(mpmath.exp(raw), angle * frequency_unit(1, model.rnn.max_time_scale).item())
        decay = mpmath.exp(-mode)
        drive = mpmath.mpc(*model.rnn.weight_ih_l0[:, 0].tolist()) / mode  # g / (1 - l) = 1 / mode
        for value, k in zip(found.tolist(), steps.tolist(), strict=True):
            before, after = (drive * (1 - decay**j) for j in (k, k + 1))
            wanted = act(after.real) - act(before.real)
            # The phase k * angle is rounded, relative to the size that the increment would have at its peak.
            peak = abs(after - before) * sum(act(z.real + 1e-9) - act(z.real) for z in (before, after)) / 2e-9
            assert abs(value - wanted) <= 1e-11 * max(abs(peak), abs(wanted))


def exact_increment(name: str, recurrence: str, raw: float, u: float, step: int) -> Any:
    """v[step] of one exact exp unit with c = 1, b = 0, dt = 1 and x = 1, in 400 digits."""
    with mpmath.workdps(400):
        act = {"tanh": mpmath.tanh, "linear": lambda z: z, "relu": lambda z: max(z, 0)}.get(
            name, lambda z: min(max(z, -1), 1)
        )
        rate = mpmath.exp(mpmath.mpf(raw))
        decay, z = mpmath.exp(-rate), mpmath.mpf(u)
        if recurrence == "ssm" or name == "linear":
            gain = (1 - decay) / rate

            def state(k: int) -> Any:
                return gain * z * (1 - decay**k) / (1 - decay)

            return gain * z * decay**step if name == "linear" else act(state(step + 1)) - act(state(step))
        for _ in range(step):
            z = z - (1 - decay) * act(z)
        return act(z)


@pytest.mark.parametrize("raw", [-4.5, -1.0, 1.0, 2.7])
@pytest.mark.parametrize("u", [0.3, 1.7])
@pytest.mark.parametrize(("recurrence", "name"), list(product(["diagonal", "ssm"], NONLINEARITIES)))
def test_digits_survive_down_to_1e_30(recurrence: str, name: str, raw: float, u: float) -> None:
    """A float32 model: its increments are exact to 1e-11 (T roundings of float64) down to 1e-30."""
    model = RNNFunctional(1, 1, nonlinearity=name, recurrence=recurrence, parameterization="exp")
    with torch.no_grad():
        model.rnn.rate_l0.fill_(raw)
        model.rnn.weight_ih_l0.fill_(u)
        model.readout.weight.fill_(1.0)
    parameters = {key: value.detach().double()[None] for key, value in model.named_parameters()}
    cells = HeavisideCells.of(model, parameters)
    raw, u = model.rnn.rate_l0.item(), model.rnn.weight_ih_l0.item()
    last = int(67 / torch.tensor(raw).exp())  # e^-67 = 8e-30
    steps = torch.tensor([0, 1, last // 2, last]).unique()
    actual = cells.increments(torch.ones(1, 1, 1, dtype=torch.float64), steps)[0, 0, :, 0]
    for k, value in zip(steps.tolist(), actual.tolist(), strict=True):
        wanted = exact_increment(name, recurrence, raw, u, k)
        assert abs(value - wanted) <= 1e-11 * abs(wanted), (k, value, wanted)


@pytest.mark.parametrize("name", ["linear", "hardtanh", "relu", "tanh"])
def test_difference_of_nonlinearities(name: str) -> None:
    for z, step in product([-30.0, -1.0, -0.2, 0.0, 0.9, 25.0], [1e-30, -1e-20, 1e-3, -2.0, 5.0]):
        with mpmath.workdps(80):
            act = {"tanh": mpmath.tanh, "linear": lambda v: v, "relu": lambda v: max(v, 0)}.get(
                name, lambda v: min(max(v, -1), 1)
            )
            wanted = act(mpmath.mpf(z) + mpmath.mpf(step)) - act(mpmath.mpf(z))
        actual = bodies(name).difference(*torch.tensor([z, step], dtype=torch.float64)).item()
        # One end at a kink and a step below its rounding: the float64 sum stays on the kink.
        kink = {"hardtanh": abs(z) == 1, "relu": z == 0}.get(name, False)
        assert actual == pytest.approx(float(wanted), rel=1e-13, abs=0) or kink


def test_excess_of_tanh() -> None:
    for z in (1e-200, 1e-9, 0.1, 0.2499, 0.2501, 0.7, 3.0, 40.0):
        with mpmath.workdps(420):
            wanted = float(mpmath.mpf(z) - mpmath.tanh(mpmath.mpf(z)))
        value = bodies("tanh").excess(torch.tensor([z, -z], dtype=torch.float64))
        assert value.tolist() == pytest.approx([wanted, -wanted], rel=1e-13, abs=0)


def test_slow_units_after_a_million_steps() -> None:
    model = RNNFunctional(1, 1, nonlinearity="hardtanh", parameterization="direct", dtype=torch.float64)
    parameters = {
        name: torch.full((1, *value.shape), fill, dtype=torch.float64)
        for (name, value), fill in zip(model.named_parameters(), (1.0, 0.0, 1e-4, 1.0, 0.0), strict=True)
    }
    cells = HeavisideCells.of(model, parameters)
    x = torch.tensor([[[3.0]]], dtype=torch.float64)
    step = -torch.expm1(torch.tensor(-1e-4, dtype=torch.float64))
    last = torch.ceil(2 / step)  # |z| has fallen from 3 to below 1
    wanted = (3 - last * step) * torch.exp(-1e-4 * (1e6 - last))
    value = cells.increments(x, torch.tensor([0, int(last) - 1, 1_000_000]))[0, 0, :, 0]
    # Differences of numbers up to 3 after 20,000 steps: 20,000 x 2^-52 at most.
    assert value.tolist() == pytest.approx([1.0, 1.0, wanted.item()], rel=1e-11, abs=0)


def test_odd_and_biased() -> None:
    model = functional("tanh")
    parameters = copies(model)
    assert not HeavisideCells.of(model, parameters).cells.is_odd
    parameters["rnn.bias_l0"] = torch.zeros_like(parameters["rnn.bias_l0"])
    assert HeavisideCells.of(model, parameters).cells.is_odd
    assert not HeavisideCells.of(functional("relu"), parameters).cells.is_odd


def test_traffic() -> None:
    assert traffic(40, 300, 50, 64, 1, 8) == 8 * (40 * 300 * 64 + 40 * 3 * 64 + 40 * 300 * 50)
