"""memory_function: the definition, the sup and its domain, modules of any kind, files, bad arguments."""

import csv
import math
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cofm_triton import targets
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.memory.function import MemoryFunction, log_steps, memory_function
from cofm_triton.reference import (
    Dynamics,
    candidates,
    differences,
    increments,
    linear_memory,
    sign_vectors,
)
from cofm_triton.reference import memory_function as definition
from cofm_triton.step.activations import NONLINEARITIES

OPTIONS = list(product(["diagonal", "ssm"], NONLINEARITIES, ["euler", "exact"]))


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def functional(*, bias: float = 0.0, size: int = 2, **options: Any) -> RNNFunctional:
    """Rates up to 1, so that Euler's steps are stable too."""
    model = RNNFunctional(size, 6, 3, parameterization="exp", dtype=torch.float64, **options)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(randn(*value.shape, seed=len(name)))
        model.rnn.rate_l0.copy_(-model.rnn.rate_l0.abs())
        if model.rnn.bias_l0 is not None:
            model.rnn.bias_l0.mul_(bias)
    return model


def dynamics(model: RNNFunctional) -> Dynamics:
    rnn = model.rnn
    return Dynamics(rnn.parameterization, rnn.recurrence, rnn.nonlinearity, rnn.dt, rnn.discretization)


def parameters(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("norm", ["inf", "inf+1"])
@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_given_inputs(recurrence: str, name: str, discretization: str, norm: str) -> None:
    model = functional(bias=1.0, recurrence=recurrence, nonlinearity=name, discretization=discretization, dt=0.5)
    inputs = 2 * randn(9, 2, seed=8)
    memory = memory_function(model, 30, inputs=inputs, norm=norm)
    wanted = definition(increments(parameters(model), inputs, 30, dynamics(model)), inputs, norm=norm)
    torch.testing.assert_close(memory.values, wanted.values, rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(memory.argmax, wanted.argmax)
    torch.testing.assert_close(memory.times, 0.5 * torch.arange(30).double())
    assert memory.settings.radius == inputs.abs().amax(1).max().item()


@pytest.mark.parametrize("norm", ["inf", "inf+1"])
@pytest.mark.parametrize(("recurrence", "name"), list(product(["diagonal", "ssm"], NONLINEARITIES)))
def test_not_below_other_searches_and_attained(recurrence: str, name: str, norm: str) -> None:
    """Against a regular grid and random inputs in the ball; attained by the inputs it names."""
    model = functional(recurrence=recurrence, nonlinearity=name)
    memory = memory_function(model, 25, radius=4.0, norm=norm)
    uniform = torch.rand(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    points = torch.cat((candidates(2, 4.0), 8 * uniform - 4))
    velocities = increments(parameters(model), points, 25, dynamics(model))
    found = definition(velocities, points, norm=norm).values
    # Optima lie at kinks of several saturating units, where a search may stop short by a few 1e-3.
    assert (memory.values >= found * (1 - 2e-3)).all(), (memory.values / found).min()
    at_best = increments(parameters(model), memory.argmax, 25, dynamics(model)).diagonal(dim1=0, dim2=1).T
    size = memory.argmax.abs().amax(1)
    achieved = at_best.abs().amax(1) / (size + (norm == "inf+1"))
    torch.testing.assert_close(memory.values, achieved, rtol=1e-9, atol=1e-15)
    assert (size <= 4.0).all() and (size > 0).all()


def test_one_hardtanh_unit_has_one_over_t_memory() -> None:
    """sup_x = |c u| / (1 + a t), reached at |x| = (1 + a t) / |u| (math: the last saturated moment)."""
    rate, u, c = 0.02, 0.5, -1.5
    model = RNNFunctional(1, 1, parameterization="direct", discretization="euler", dtype=torch.float64)
    with torch.no_grad():
        for value, number in zip(model.parameters(), (u, 0.0, rate, c, 0.3), strict=True):
            value.fill_(number)
    memory = memory_function(model, 500, radius=200.0)
    time = torch.arange(500, dtype=torch.float64)
    # The size is refined to 1e-5 of a grid ratio of 1.25.
    torch.testing.assert_close(memory.values, abs(c * u) / (1 + rate * time), rtol=1e-4, atol=0)
    assert memory.fit().decay == "polynomial"
    inside = memory_function(model, 500, radius=4.0)  # from (|u| R - 1) / a = 50 on nothing saturates
    assert inside.fit().decay == "exponential"
    assert inside.fit().rate == pytest.approx(-math.log1p(-rate), rel=1e-6) == pytest.approx(inside.beta0)
    assert inside.fit().within_bound


@pytest.mark.parametrize("norm", ["inf", "inf+1"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
@pytest.mark.parametrize("size", [1, 3, 12])
def test_closed_form_of_linear_models(size: int, discretization: str, norm: str) -> None:
    model = functional(bias=1.0, size=size, nonlinearity="linear", discretization=discretization, dt=0.5)
    memory = memory_function(model, 40, radius=0.7, norm=norm, min_radius=0.7)
    wanted = linear_memory(parameters(model), 40, dynamics(model), radius=0.7, norm=norm)
    torch.testing.assert_close(memory.values, wanted, rtol=1e-11, atol=1e-15)
    again = memory_function(model, 40, inputs=memory.argmax[[7]], norm=norm)
    assert again.values[7].item() == pytest.approx(memory.values[7].item(), rel=1e-11)
    ring = memory_function(model, 40, radius=0.7, norm=norm, min_radius=0.1)
    if size <= 3:
        corners = torch.cat([share * sign_vectors(size) for share in (0.1, 0.3, 0.7)])
        tried = definition(increments(parameters(model), corners, 40, dynamics(model)), corners, norm=norm)
        torch.testing.assert_close(ring.values, tried.values, rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("units", [1, 4, 5])
@pytest.mark.parametrize("norm", ["inf", "inf+1"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_closed_form_of_pairs(discretization: str, norm: str, units: int) -> None:
    options: dict[str, Any] = dict(oscillating=True, normalize_input=True, nonlinearity="linear", dt=0.2)
    model = RNNFunctional(3, units, 2, discretization=discretization, dtype=torch.float64, **options)
    given = {name: value.copy_(randn(*value.shape, seed=len(name))) for name, value in parameters(model).items()}
    memory = memory_function(model, 40, radius=0.7, norm=norm, min_radius=0.7)
    kind = Dynamics(discretization=discretization, **options)
    wanted = linear_memory(given, 40, kind, radius=0.7, norm=norm)
    # v may pass through 0 as it turns: absolute in the scale of the first ones.
    torch.testing.assert_close(memory.values, wanted, rtol=1e-11, atol=1e-13 * wanted.max().item())
    assert memory.floor == 0
    assert memory.beta0 == pytest.approx(-kind.decay(given).abs().log().max().item() / 0.2, rel=1e-11)


@pytest.mark.parametrize("normalize_input", [False, True])
@pytest.mark.parametrize("oscillating", [False, True])
@pytest.mark.parametrize(("recurrence", "name", "discretization"), OPTIONS)
def test_pairs_and_normalised_inputs(
    recurrence: str, name: str, discretization: str, oscillating: bool, normalize_input: bool
) -> None:
    """Given inputs, by whatever way each model takes: the definition, and the slowest mode's rate."""
    options: dict[str, Any] = dict(
        recurrence=recurrence, nonlinearity=name, discretization=discretization, dt=0.2, oscillating=oscillating,
        normalize_input=normalize_input,
    )  # fmt: skip
    model, inputs = RNNFunctional(2, 5, 3, dtype=torch.float64, **options), 2 * randn(5, 2, seed=8)
    given = {label: value.copy_(randn(*value.shape, seed=len(label))) for label, value in parameters(model).items()}
    memory, kind = memory_function(model, 15, inputs=inputs), Dynamics(**options)
    wanted = definition(increments(given, inputs, 15, kind), inputs)
    # Where outputs are subtracted, their rounding is what `floor` says it may be.
    torch.testing.assert_close(memory.values, wanted.values, rtol=1e-10, atol=1e-13 + memory.floor)
    assert memory.beta0 == pytest.approx(-kind.decay(given).abs().log().max().item() / 0.2, rel=1e-11)


def test_a_linear_functional_has_the_memory_of_its_kernel_whatever_the_radius() -> None:
    model = functional(nonlinearity="linear", size=1)
    kappa = linear_memory(parameters(model), 50, dynamics(model))
    for radius, norm in ((1.0, "inf"), (1e-3, "inf"), (50.0, "inf")):
        torch.testing.assert_close(memory_function(model, 50, radius=radius, norm=norm).values, kappa)


@pytest.mark.parametrize("name", ["hardtanh", "tanh", "linear"])
def test_the_lower_radius(name: str) -> None:
    """A bias and the norm "inf" leave the surface |x| = R; everything else takes the whole ball."""
    assert memory_function(functional(nonlinearity=name), 5).settings.min_radius == 2.0**-20
    biased = functional(bias=1.0, nonlinearity=name)
    assert memory_function(biased, 5, radius=3.0).settings.min_radius == 3.0
    assert memory_function(biased, 5, norm="inf+1").settings.min_radius == 2.0**-20
    assert memory_function(biased, 5, min_radius=0.25).settings.min_radius == 0.25
    surface, ring = memory_function(biased, 30), memory_function(biased, 30, min_radius=0.25)
    assert (ring.values >= surface.values * (1 - 1e-12)).all()
    assert torch.allclose(surface.argmax.abs().amax(1), torch.ones(30).double())


@pytest.mark.parametrize(("recurrence", "name"), list(product(["diagonal", "ssm"], NONLINEARITIES)))
def test_log_spaced_steps_are_the_same_numbers(recurrence: str, name: str) -> None:
    model = functional(recurrence=recurrence, nonlinearity=name)
    inputs = randn(4, 2, seed=5)
    whole, some = (memory_function(model, 200, inputs=inputs, samples=samples) for samples in (None, 20))
    assert len(some.values) <= 20 and some.steps[-1] == 199
    torch.testing.assert_close(some.values, whole.values[some.steps], rtol=1e-12, atol=1e-300)


def test_a_million_steps() -> None:
    model = RNNFunctional(1, 8, max_time_scale=1e5, dtype=torch.float64)
    memory = memory_function(model, 1_000_000, samples=200)
    assert memory.steps[-1] == 999_999
    fit = memory.fit()
    assert fit.decay == "exponential"
    assert fit.rate == pytest.approx(1e-5, rel=0.02) == pytest.approx(memory.beta0, rel=0.02)
    assert log_steps(1, 5).tolist() == [0] and log_steps(7, 100).tolist() == list(range(7))


@pytest.mark.parametrize(("target", "decay"), [("pol", "polynomial"), ("exp", "exponential")])
def test_hand_built_models_of_the_targets(target: str, decay: str) -> None:
    """Many exponentials fitted to a kernel by least squares: a linear model with that memory."""
    times = torch.arange(100, dtype=torch.float64)
    rates = torch.logspace(-3, 0.5, 40, dtype=torch.float64)
    modes = torch.exp(-rates * times[:, None])
    rho = targets.target(target).rho(times)
    weights = torch.linalg.lstsq(modes, rho[:, None], driver="gelsd", rcond=1e-12).solution
    assert (modes @ weights - rho[:, None]).abs().max() < 1e-6
    model = RNNFunctional(1, 40, nonlinearity="linear", parameterization="direct", dtype=torch.float64)
    with torch.no_grad():
        model.rnn.rate_l0.copy_(rates)
        model.rnn.weight_ih_l0.fill_(1.0)
        model.readout.weight.copy_((weights[:, 0] * rates / -torch.expm1(-rates))[None])
    if target == "exp":  # the last digits of a least-squares fit are not exponential
        model = RNNFunctional(1, 3, nonlinearity="linear", parameterization="exp", dtype=torch.float64)
        with torch.no_grad():
            model.rnn.rate_l0.fill_(0.0)
    fit = memory_function(model, 100).fit()
    assert fit.decay == decay
    assert fit.rate == pytest.approx(targets.target(target).decay_rate, rel=0.02)
    assert fit.within_bound == (decay == "exponential")


class Wrapped(nn.Module):
    """A recurrent module with a read-out."""

    def __init__(self, kind: Callable[..., nn.Module], bias: bool) -> None:
        super().__init__()
        self.core = kind(2, 4, batch_first=True, bias=bias)
        self.readout = nn.Linear(4, 3)
        self.input_size = 2

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.core(x)[0])


class Decoder(nn.Module):
    """Causal attention with positions in a float32 buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(2, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.register_buffer("positions", torch.randn(50, 8))
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=x.device, dtype=x.dtype)
        z = self.embed(x) + self.positions[:length]  # type: ignore[index]
        return self.head(self.layer(z, src_mask=mask, is_causal=True)), "more"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: nn.RNN(2, 4, batch_first=True), id="nn.RNN"),
        pytest.param(lambda: nn.GRU(2, 4, num_layers=2, batch_first=True), id="nn.GRU"),
        pytest.param(lambda: nn.LSTM(2, 4, batch_first=True), id="nn.LSTM"),
        pytest.param(lambda: StableRNN(2, 4, batch_first=True), id="StableRNN"),
        pytest.param(lambda: RNNFunctional(2, 4, num_layers=2, dropout=0.5), id="two layers"),
        pytest.param(Decoder, id="decoder"),
    ],
)
def test_any_module_by_differences(make: Callable[[], nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    model = make().to(dtype)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    inputs = randn(5, 2, seed=4)
    dt = None if isinstance(model, (StableRNN, RNNFunctional)) else 0.5
    memory = memory_function(model, 20, inputs=inputs, dt=dt)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(before[name], value) and before[name].dtype == value.dtype
    wide = model.double().eval()

    def run(x: Tensor) -> Tensor:
        output = wide(x)
        return output[0] if isinstance(output, tuple) else output

    rest = wide.readout.bias.detach() if isinstance(model, RNNFunctional) else 0.0  # type: ignore[operator, union-attr]
    with torch.no_grad():
        velocities = differences(run, inputs, 20, dt=memory.settings.dt, initial_output=rest)
    wanted = definition(velocities, inputs)
    torch.testing.assert_close(memory.values, wanted.values, rtol=1e-9, atol=1e-13)
    assert 0 < memory.floor < 1e-11


class Shifted(RNNFunctional):
    """A subclass may compute anything, so it goes the way of any module."""


def test_differencing_finds_what_increments_find() -> None:
    for bias in (0.0, 1.0):
        fused = functional(bias=bias, nonlinearity="hardtanh")
        other = Shifted(2, 6, 3, parameterization="exp", dtype=torch.float64, nonlinearity="hardtanh")
        other.load_state_dict(fused.state_dict())
        one, two = (memory_function(model, 20, radius=2.0) for model in (fused, other))
        assert one.settings.min_radius == two.settings.min_radius
        # The same numbers from two searches of different effort.
        torch.testing.assert_close(one.values, two.values, rtol=0.01, atol=1e-9)


def test_rest_and_bias_of_modules() -> None:
    """Without bias in the loop the output under zero input is the read-out's: that is y[-1]."""
    plain, biased = Wrapped(nn.RNN, bias=False), Wrapped(nn.RNN, bias=True)
    memory = memory_function(plain, 10)
    assert memory.settings.min_radius == 2.0**-20
    given = memory_function(plain, 10, initial_output=plain.readout.bias.detach().double(), min_radius=2.0**-20)
    torch.testing.assert_close(memory.values, given.values)
    assert memory_function(biased, 10).settings.min_radius == 1.0
    x = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
    first = memory_function(biased, 10, inputs=x).values[0].item()
    wide = biased.double()
    assert first == pytest.approx(wide(x[:, None])[0, 0].abs().max().item())


class Delay(nn.Module):
    """No parameters at all: a delay of 5 steps of the first channel."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x, (0, 0, 5, 0))[:, : x.shape[1], :1]


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
def test_a_warm_up_changes_nothing_at_rest(nonlinearity: str) -> None:
    """Zeros leave the state 0 where it is; only rounding differs, since outputs are subtracted."""
    model = functional(nonlinearity=nonlinearity)
    x = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    cold, warm = (memory_function(model, 20, inputs=x, warm_up=steps) for steps in (0, 7))
    assert cold.floor == 0 < warm.floor
    torch.testing.assert_close(cold.values, warm.values, rtol=0, atol=warm.floor)


class Biased(nn.Module):
    """One unit, h' = h / 2 + x + 1, that rests at 2."""

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros_like(x[:, 0])]
        for step in x.unbind(1):
            states.append(states[-1] / 2 + step + 1)
        return torch.stack(states[1:], 1)


def test_a_warm_up_leads_to_where_a_model_rests() -> None:
    """From rest a unit step is answered by 2^-k."""
    memory = memory_function(Biased(), 6, inputs=torch.ones(1, 1), input_size=1, warm_up=60)
    torch.testing.assert_close(memory.values, 0.5 ** torch.arange(6, dtype=torch.float64), rtol=0, atol=memory.floor)


class Mean(nn.Module):
    """Attention that weighs all of the past alike."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1) / torch.arange(1, x.shape[1] + 1, dtype=x.dtype)[:, None]


def test_a_warm_up_is_what_attention_looks_back_at() -> None:
    """After W zeros the mean of k + 1 ones is (k + 1) / (W + k + 1); without, a constant, whatever it attends to."""
    without = memory_function(Mean(), 6, inputs=torch.ones(1, 1), input_size=1)
    assert without.values[1:].max() == 0
    warm = memory_function(Mean(), 6, inputs=torch.ones(1, 1), input_size=1, warm_up=4)
    k = torch.arange(6, dtype=torch.float64)
    torch.testing.assert_close(warm.values, (k + 1) / (k + 5) - k / (k + 4))


def test_models_with_another_read_out() -> None:
    """Where the output starts is the bias of a linear read-out alone."""
    plain = functional(bias=1.0)
    for readout, rest in (
        (nn.Linear(6, 3, bias=False).double(), torch.zeros(3)),
        (nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3)).double(), None),
    ):
        two = RNNFunctional(2, 6, 3, num_layers=2, dtype=torch.float64)
        two.readout = readout  # type: ignore[assignment]
        memory = memory_function(two, 10, min_radius=1.0)
        same = memory_function(Renamed(two), 10, min_radius=1.0, input_size=2, initial_output=rest)
        torch.testing.assert_close(memory.values, same.values)
    plain.readout = nn.Linear(6, 3, bias=False).double()
    assert memory_function(plain, 10).values.isfinite().all()


class Renamed(nn.Module):
    """A module of which nobody knows what it is."""

    def __init__(self, core: nn.Module) -> None:
        super().__init__()
        self.core = core

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.core(x)
        return result


class Short(nn.Module):
    """Loses its last step."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :-1, :1]


def test_a_module_without_parameters() -> None:
    memory = memory_function(Delay(), 30, input_size=2)
    wanted = torch.zeros(30, dtype=torch.float64)
    wanted[5] = 1
    torch.testing.assert_close(memory.values, wanted)
    assert memory.fit().rate == math.inf
    assert math.isnan(memory.beta0)


def test_float32_models_are_computed_in_float64() -> None:
    single = functional(nonlinearity="tanh").float()
    double = functional(nonlinearity="tanh").float().double()
    assert torch.equal(memory_function(single, 50).values, memory_function(double, 50).values)
    assert memory_function(single, 50).values.dtype == torch.float64


def test_growing_models_end_in_infinity() -> None:
    for name in ("linear", "relu"):
        model = RNNFunctional(1, 1, nonlinearity=name, parameterization="direct", dtype=torch.float64)
        with torch.no_grad():
            model.rnn.rate_l0.fill_(-1.0)
            model.rnn.weight_ih_l0.fill_(1.0)
        memory = memory_function(model, 1000)
        assert memory.values[0].isfinite() and memory.values[-1] == math.inf
        assert memory.beta0 == -1.0 and memory.fit().decay == "none"


def test_ten_and_more_dimensions() -> None:
    for size in (10, 13):
        model = functional(size=size, nonlinearity="hardtanh")
        memory = memory_function(model, 6, radius=0.02)  # nothing saturates: the linear sup is known
        rate = torch.exp(model.rnn.rate_l0.detach())
        decay = torch.exp(-rate) ** torch.arange(6)[:, None]
        kernel = torch.einsum("pi,ki,id->kpd", model.readout.weight.detach(), decay, model.rnn.weight_ih_l0.detach())
        wanted = kernel.abs().sum(-1).amax(-1)
        # Random corners in 13 dimensions, and coordinates moved one by one, may end below the sup.
        torch.testing.assert_close(memory.values, wanted, rtol=1e-9 if size == 10 else 0.02, atol=0)


def test_csv(tmp_path: Path) -> None:
    memory = memory_function(functional(dt=0.5), 7)
    memory.to_csv(tmp_path / "memory.csv")
    rows = list(csv.DictReader((tmp_path / "memory.csv").open()))
    assert list(rows[0]) == ["step", "time", "memory", "x0", "x1"]
    assert [float(row["memory"]) for row in rows] == memory.values.tolist()
    assert [float(row["time"]) for row in rows] == memory.times.tolist()
    assert [[float(row["x0"]), float(row["x1"])] for row in rows] == memory.argmax.tolist()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (dict(length=0), ValueError, "length"),
        (dict(length=2.5), TypeError, "length"),
        (dict(radius=0.0), ValueError, "radius"),
        (dict(radius=math.inf), ValueError, "radius"),
        (dict(radius="1"), TypeError, "radius"),
        (dict(norm="l2"), ValueError, "norm"),
        (dict(min_radius=2.0), ValueError, "min_radius"),
        (dict(min_radius=-1.0), ValueError, "min_radius"),
        (dict(samples=1), ValueError, "samples"),
        (dict(input_size=3), ValueError, "input_size"),
        (dict(dt=2.0), ValueError, "dt"),
        (dict(initial_output=0.0), ValueError, "initial_output"),
        (dict(warm_up=-1), ValueError, "warm_up"),
        (dict(warm_up=1.5), TypeError, "warm_up"),
        (dict(model=Delay(), input_size=2, initial_output=0.0, warm_up=1), ValueError, "initial_output must be None"),
        (dict(model=Delay(), input_size=2, initial_output=math.nan), ValueError, "initial_output must be finite"),
        (dict(model=Delay(), input_size=2, initial_output="x"), TypeError, "initial_output must be a number"),
        (dict(model=Delay(), input_size=2, initial_output=torch.zeros(3)), ValueError, "must have 1 numbers or one"),
        (dict(model=Short(), input_size=2), ValueError, "model must map .* same N and T"),
        (dict(model=RNNFunctional(2, 3, bidirectional=True)), ValueError, "model must be causal"),
        (dict(model=nn.GRU(2, 3, batch_first=True, bidirectional=True)), ValueError, "model must be causal"),
        (dict(norm=[]), ValueError, "norm"),
        (dict(inputs=torch.ones(3, 3)), ValueError, "inputs"),
        (dict(inputs=torch.ones(2)), ValueError, "inputs"),
        (dict(inputs=torch.ones(0, 2)), ValueError, "inputs"),
        (dict(inputs=torch.ones(3, 2).long()), TypeError, "inputs"),
        (dict(inputs=[[1.0, 1.0]]), TypeError, "inputs"),
        (dict(inputs=torch.tensor([[1.0, 1.0], [0.0, 0.0]])), ValueError, "zero vector"),
        (dict(inputs=torch.tensor([[1.0, math.nan]])), ValueError, "finite"),
        (dict(model=torch.tanh), TypeError, "model"),
        (dict(model=nn.RNN(2, 3)), ValueError, "batch_first"),
        (dict(model=StableRNN(2, 3)), ValueError, "batch_first"),
        (dict(model=Delay()), ValueError, "input_size"),
    ],
)
def test_errors(options: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"model": functional(), "length": 5} | options
    with pytest.raises(error, match=message):
        memory_function(arguments.pop("model"), arguments.pop("length"), **arguments)


def test_a_record_too_short_to_fit() -> None:
    memory = memory_function(functional(), 3)
    assert isinstance(memory, MemoryFunction)
    with pytest.raises(ValueError, match="length"):
        memory.fit()
