"""Units with steps of their own: against a plain loop, and everywhere downstream of a layer."""

import math
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import cofm_triton as cofm
from cofm_triton.layers.recurrences.elementwise import step_range
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.model_file import load_model, save_model
from cofm_triton.step.activation import activation
from cofm_triton.step.parameterization import parameterization

DT = 0.5
STEPS, STATES_OF_A_STEP = 7, 3 * 5
# The loop and the layer each round at most 100 times a step, on its way through exp, gains and turns, and no later step
# enlarges that. A gradient sums over all states. Where all steps are DT, only exp and a product or two differ.
ERROR = 2 * 100 * STEPS * 2.0**-53
GRADIENT_ERROR = ERROR * STEPS * STATES_OF_A_STEP
SAME = 2 * 20 * STEPS * 2.0**-53


def make(width: int = 5, **options: Any) -> StableRNN:
    """A layer whose weights are all at work."""
    torch.manual_seed(0)
    layer = StableRNN(2, width, dt=DT, learnable_dt=True, batch_first=True, dtype=torch.float64, **options)
    with torch.no_grad():
        layer.get_parameter("bias_l0").copy_(torch.randn(width))
    return layer


def looped(layer: StableRNN, x: Tensor, h: Tensor) -> Tensor:
    """All states (B, T, D) from (B, D), unit by unit: A, U' and b' of each step from the definition."""
    rate = parameterization(layer.parameterization).rate(layer.rate_l0)
    step, act = layer.get_parameter("log_dt_l0").exp(), activation(layer.nonlinearity)
    e = x @ layer.weight_ih_l0.T + layer.get_parameter("bias_l0")
    is_linear = layer.recurrence == "ssm" or layer.nonlinearity == "linear"
    pairs = -(-layer.hidden_size // 2) if layer.oscillating else layer.hidden_size
    angle = torch.zeros(pairs, dtype=torch.float64)
    if layer.oscillating:
        free = torch.cat((layer.get_parameter("frequency_l0"), torch.zeros(layer.hidden_size % 2)))
        angle = step * free if is_linear else torch.atan(free)
        if not is_linear and layer.nonlinearity == "relu":
            slow = (step * rate).exp().square() < 2  # `oscillation.contracting_angle`, exact
            root = (2 - (2 * step * rate).exp()).clamp(min=0).sqrt()
            bound = torch.where(slow, 2 * torch.atan((step * rate).expm1() / (1 + root)), math.inf)
            angle = bound.clamp(max=math.pi / 2) * (2 / math.pi) * torch.atan(free)
    exact = layer.discretization == "exact"
    turn = torch.polar((-step * rate).exp(), -angle) if exact else torch.complex(1 - step * rate, -angle)
    z = torch.complex(rate, angle / step)
    gain = (1 - turn) / z if exact else step.to(turn)
    if layer.normalize_input:
        size = (1 - turn.abs().square()).clamp(min=0).sqrt()
        gain = size.to(turn) if is_linear else gain
        scale = (1 - turn).abs() / step if layer.nonlinearity == "relu" else size / step
    else:
        scale = torch.ones_like(step)
    states = []
    width, each = layer.hidden_size, 2 if layer.oscillating else 1

    def spread(values: Tensor) -> Tensor:
        return values.repeat_interleave(each)[:width]

    def product(factor: Tensor, h: Tensor) -> Tensor:
        if not layer.oscillating:
            return factor.real * h
        wide = torch.nn.functional.pad(h, (0, width % 2)).unflatten(-1, (-1, 2))
        return torch.view_as_real(factor * torch.view_as_complex(wide.contiguous())).flatten(-2)[:, :width]

    for k in range(x.shape[1]):
        if is_linear:
            h = product(turn, h) + product(gain, e[:, k])
        else:
            h = h + spread(step) * act(spread(scale) * e[:, k] - product((1 - turn) / step, h))
        states.append(h)
    return torch.stack(states, 1)


@pytest.mark.parametrize("discretization", ["exact", "euler"])
@pytest.mark.parametrize("normalize_input", [True, False])
@pytest.mark.parametrize("oscillating", [True, False])
@pytest.mark.parametrize(("recurrence", "nonlinearity"), [("ssm", "relu"), ("diagonal", "tanh"), ("diagonal", "relu")])
def test_layer_is_the_loop(
    recurrence: str, nonlinearity: str, oscillating: bool, normalize_input: bool, discretization: str
) -> None:
    layer = make(
        recurrence=recurrence,
        nonlinearity=nonlinearity,
        oscillating=oscillating,
        normalize_input=normalize_input,
        discretization=discretization,
    )
    if discretization == "euler" and oscillating:  # its contraction bound is another one: single units' steps
        with torch.no_grad():
            layer.get_parameter("frequency_l0").zero_()
    x, h0 = torch.randn(3, 7, 2, dtype=torch.float64), torch.randn(1, 3, 5, dtype=torch.float64)
    output, h_n = layer(x, h0)
    states = looped(layer, x, h0[0])
    expected = torch.relu(states) if recurrence == "ssm" else states
    torch.testing.assert_close(output, expected, rtol=ERROR, atol=ERROR)
    torch.testing.assert_close(h_n[0], states[:, -1], rtol=ERROR, atol=ERROR)
    ours = torch.autograd.grad(output.square().sum(), layer.get_parameter("log_dt_l0"))[0]
    theirs = torch.autograd.grad(expected.square().sum(), layer.get_parameter("log_dt_l0"))[0]
    torch.testing.assert_close(ours, theirs, rtol=GRADIENT_ERROR, atol=GRADIENT_ERROR)


@pytest.mark.parametrize("recurrence", ["ssm", "diagonal"])
def test_steps_of_dt_change_nothing(recurrence: str) -> None:
    layer = make(recurrence=recurrence, nonlinearity="tanh")
    with torch.no_grad():
        layer.get_parameter("log_dt_l0").fill_(math.log(DT))
    plain = StableRNN(2, 5, dt=DT, recurrence=recurrence, nonlinearity="tanh", batch_first=True, dtype=torch.float64)
    shared = {name: value for name, value in layer.state_dict().items() if name != "log_dt_l0"}
    plain.load_state_dict(shared | {"_extra_state": plain.get_extra_state()})
    x = torch.randn(3, 7, 2, dtype=torch.float64)
    for ours, theirs in zip(layer(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=SAME, atol=SAME)


@pytest.mark.parametrize("recurrence", ["ssm", "diagonal"])
def test_chunks_steps_and_packed_sequences(recurrence: str) -> None:
    layer = make(recurrence=recurrence)
    x = torch.randn(2, 6, 2, dtype=torch.float64)
    whole, last = layer(x)
    first, h = layer(x[:, :2])
    stepped = [layer.step(x[:, 2], h)]
    rest, h = layer(x[:, 3:], stepped[0][1])
    torch.testing.assert_close(torch.cat((first, stepped[0][0][:, None], rest), 1), whole)
    torch.testing.assert_close(h, last)
    _, ends = layer(pack_sequence([x[0], x[1, :3]]))
    torch.testing.assert_close(ends, torch.stack((last[0, 0], layer(x[1:, :3])[1][0, 0]))[None])


def test_fresh_steps_cover_the_time_scales() -> None:
    layer = StableRNN(1, 400, dt=DT, learnable_dt=True, max_time_scale=100.0)
    steps = layer.get_parameter("log_dt_l0").detach().exp()
    assert step_range(layer) == (DT / 100, DT)
    assert DT / 100 <= steps.min() < DT / 60 and DT / 1.5 < steps.max() <= DT
    assert 0.4 < (steps < DT / 10).float().mean() < 0.6  # log-uniform
    memory = 1 / (steps * parameterization("softplus").rate(layer.rate_l0.detach()))
    assert memory.min() > 0.99 and memory.max() < 101
    bounded = StableRNN(1, 50, learnable_dt=True, dt_min=0.25, dt_max=0.5).get_parameter("log_dt_l0").detach().exp()
    assert bounded.min() > 0.2499 and bounded.max() < 0.5001


def test_fresh_layers_keep_the_size_of_their_input() -> None:
    torch.manual_seed(0)
    x, layer = torch.randn(8, 512, 16), StableRNN(16, 64, 3, learnable_dt=True, batch_first=True)
    with torch.no_grad():
        assert 0.1 < float(layer(x)[0].square().mean().sqrt()) < 3


def test_margin_is_that_of_the_steps() -> None:
    layer = make()
    rate = parameterization("softplus").rate(layer.rate_l0)
    expected = float((rate * layer.get_parameter("log_dt_l0").exp() / DT).detach().min())
    assert layer.stability_margin() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("nonlinearity", ["linear", "hardtanh"])
def test_memory_and_errors(nonlinearity: str) -> None:
    """Models are called: the closed forms of single steps are not theirs. E(0) is the mean square."""
    torch.manual_seed(0)
    model = RNNFunctional(1, 4, nonlinearity=nonlinearity, learnable_dt=True, max_time_scale=20.0, dtype=torch.float64)
    memory = cofm.memory_function(model, 30, inputs=torch.ones(1, 1))
    with torch.no_grad():
        y = model(torch.ones(1, 30, 1, dtype=torch.float64))[0, :, 0]
        before = model.readout(torch.zeros(4, dtype=torch.float64))
    torch.testing.assert_close(memory.values, torch.diff(y, prepend=before).abs(), rtol=1e-9, atol=1e-12)
    assert memory.beta0 == pytest.approx(model.stability_margin(), rel=1e-12)
    x, target = cofm.targets.generate("exp", 6, 8)
    curve = cofm.perturbation_error(model, x, target, radii=[0.0, 0.1], directions=2, metric="mse")
    expected = (model(x) - target).square().mean().detach()
    torch.testing.assert_close(curve.error[0, 0], expected, rtol=1e-12, atol=0)


def test_files_and_copies(tmp_path: Path) -> None:
    model = RNNFunctional(1, 4, learnable_dt=True, dt_min=0.01, dt_max=0.1)
    save_model(tmp_path / "m", model)
    x = torch.randn(1, 5, 1)
    for twin in (load_model(tmp_path / "m"), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), model(x))
        assert (twin.rnn.learnable_dt, twin.rnn.dt_min, twin.rnn.dt_max) == (True, 0.01, 0.1)
    with pytest.raises(RuntimeError, match="learnable_dt was True and is False"):
        RNNFunctional(1, 4).load_state_dict(model.state_dict())
    assert "rnn.log_dt_l0" in model.no_weight_decay()


def test_layers_pickled_without_the_option() -> None:
    layer = StableRNN(2, 3)
    for name in ("learnable_dt", "dt_min", "dt_max"):
        del layer.__dict__[name]
    x = torch.randn(4, 2)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x)[0], layer(x)[0])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learnable_dt": 1}, TypeError, "learnable_dt should be of type bool"),
        ({"learnable_dt": True, "recurrence": "dense"}, ValueError, "learnable_dt=True needs recurrence 'ssm'"),
        ({"dt_min": 0.1}, ValueError, "dt_min needs learnable_dt=True, got 0.1"),
        ({"learnable_dt": True, "dt_max": 0.0}, ValueError, "dt_max must be positive"),
        ({"learnable_dt": True, "dt_min": 2.0}, ValueError, "dt_min must be at most dt_max, 1.0, got 2.0"),
        (
            {"learnable_dt": True, "parameterization": "lru", "recurrence": "diagonal", "normalize_input": "paper"}
            | {"oscillating": False},
            ValueError,
            "learnable_dt=True needs normalize_input=True or False, got 'paper'",
        ),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        StableRNN(2, 3, **options)
