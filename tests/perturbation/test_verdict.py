"""The horizon test: radii of limit formulas and of models, the rule, errors."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.loss import rescaled_weights
from cofm_triton.perturbation import verdict
from cofm_triton.perturbation.curve import perturbation_error
from cofm_triton.perturbation.local_slope import PRIOR_WEIGHT, SCATTER
from cofm_triton.perturbation.verdict import (
    BOUND,
    StabilityVerdict,
    judge,
    limit_radius,
    limit_resolution,
    resolution,
    slow_direction_radius,
    stability_verdict,
)
from cofm_triton.reference import temporally_weighted_mse as reference_error
from cofm_triton.reference import verdict as reference
from cofm_triton.targets import generate, target

HORIZONS = (50, 100, 200, 400, 800, 1600)


@pytest.mark.parametrize(
    ("name", "kind", "radii", "slope", "verdict"),
    [
        ("exp", "direct", [0.4488] * 6, 0.00, "stable"),
        ("pol", "direct", [0.0184, 0.01134, 0.00716, 0.00453, 0.00284, 0.00174], -0.707, "unstable"),
        ("exp", "exp", [0.5957] * 6, 0.00, "stable"),
        ("pol", "exp", [0.630, 0.554, 0.520, 0.504, 0.497, 0.494], 0.01, "stable"),
    ],
)
def test_limit_formulas(name: str, kind: str, radii: list[float], slope: float, verdict: str) -> None:
    result = stability_verdict(target=name, parameterization=kind, horizons=HORIZONS)
    assert result.horizons == HORIZONS and result.verdict == verdict
    assert result.radii == pytest.approx(radii, abs=6e-4)
    assert result.slope == pytest.approx(slope, abs=6e-3)
    assert result.error < 0.01  # no noise: what a parabola misses
    assert math.isnan(result.margin) and not any(result.censored)


def test_a_radius_that_levels_off_is_told_from_one_that_falls() -> None:
    """At these lengths the mean slope of "pol" with exp rates is -0.14, its last one -0.05."""
    result = stability_verdict(target="pol", parameterization="exp", horizons=(25, 50, 100, 200))
    assert result.verdict == "stable" and abs(result.slope) < 0.05 and result.trend > 0.1


def test_a_target_may_be_a_function() -> None:
    def rho(s: Tensor) -> Tensor:
        return torch.exp(-s)

    assert limit_radius(rho, 100) == limit_radius("exp", 100) == limit_radius(target("exp"), 100)


def exact_exponential(rate: float, kind: str = "direct") -> RNNFunctional:
    """One linear unit whose kernel is decay^s with decay = 1 - rate."""
    model = RNNFunctional(
        1, 1, nonlinearity="linear", parameterization=kind, discretization="euler", dtype=torch.float64
    )
    from cofm_triton.step.parameterization import parameterization

    raw = parameterization(kind).inverse(torch.tensor([rate], dtype=torch.float64))
    values = {"rnn.weight_ih_l0": 1.0, "rnn.bias_l0": 0.0, "readout.weight": 1.0, "readout.bias": 0.0}
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).fill_(value)
        model.get_parameter("rnn.rate_l0").copy_(raw)
    return model


def decayed(rate: float, sequences: int, length: int) -> tuple[Tensor, Tensor]:
    x, _ = generate("exp", sequences, length, seed=length)
    model = exact_exponential(rate)
    return x, model(x).detach()


@pytest.mark.parametrize("kind", ["direct", "exp", "softplus", "inverse"])
def test_radius_is_where_the_error_crosses(kind: str) -> None:
    x, y = decayed(0.3, 40, 30)
    model = exact_exponential(0.3, kind)
    radius = slow_direction_radius(model, x, y)[0]
    assert 0 < radius < 2.048
    weights = torch.arange(1, 31, dtype=torch.float64) ** 4
    power = 0.1 * (weights[:, None] * y**2).mean() / (weights.sqrt().mean() ** 2)
    around = [radius * (1 - 2e-5), radius * (1 + 2e-5)]
    errors = perturbation_error(model, x, y, radii=around, search="slow").error[0]
    assert errors[0].item() <= power.item() < errors[1].item()


def test_nonlinear_models_take_the_fused_path_to_the_same_radius() -> None:
    """Small inputs keep hardtanh linear, and both paths must cross at the same place."""
    x, _ = generate("exp", 20, 12, seed=1)
    x = 1e-3 * x
    radii = []
    for nonlinearity in ("linear", "hardtanh"):
        model = RNNFunctional(
            1, 1, nonlinearity=nonlinearity, parameterization="direct", discretization="euler", dtype=torch.float64
        )
        weights = nn.utils.parameters_to_vector(exact_exponential(0.3).parameters())
        nn.utils.vector_to_parameters(weights, model.parameters())
        radii += slow_direction_radius(model, x, exact_exponential(0.3)(x).detach())
    assert radii[0] == pytest.approx(radii[1], rel=2e-5)


class AsAnyModule(RNNFunctional):
    """A subclass may compute anything: it is called."""


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh"])
@pytest.mark.parametrize("oscillating", [False, True])
def test_pairs_and_normalised_inputs_have_the_radius_of_their_calls(nonlinearity: str, oscillating: bool) -> None:
    options: dict[str, Any] = dict(oscillating=oscillating, normalize_input=True, nonlinearity=nonlinearity)
    models = []
    for kind in (RNNFunctional, AsAnyModule):
        torch.manual_seed(3)
        models.append(kind(1, 5, dtype=torch.float64, **options))
    x, _ = generate("exp", 20, 30, seed=1)
    radii = slow_direction_radius(models, x, models[0](x).detach())
    assert 0 < radii[0] < 2.048
    assert radii[0] == pytest.approx(radii[1], rel=1e-6)


def test_a_model_that_never_fitted_has_radius_zero() -> None:
    x, y = generate("pol", 10, 20)
    model = exact_exponential(0.9)
    assert slow_direction_radius(model, x, y) == [0.0]


def test_a_model_that_cannot_be_slowed_is_censored() -> None:
    """The read-out is zero off the bias, so no rate matters."""
    x = torch.randn(5, 8, 1, dtype=torch.float64)
    model = exact_exponential(0.5)
    with torch.no_grad():
        model.get_parameter("readout.weight").zero_()
        model.get_parameter("readout.bias").fill_(1.0)
    assert slow_direction_radius(model, x, torch.ones_like(x), max_radius=1.5) == [1.5]


@pytest.mark.parametrize(("parameterization", "scale"), [("direct", 2.0), ("exp", 1.0)])
def test_the_step_of_the_limit_formula(parameterization: str, scale: float) -> None:
    """rho(s dt) is another target at dt = 1; a rate per half a step moves by twice as much."""
    halved = limit_radius(lambda s: torch.exp(-s), 50, dt=0.5, parameterization=parameterization)
    whole = limit_radius(lambda s: torch.exp(-s / 2), 50, parameterization=parameterization)
    assert halved == pytest.approx(scale * whole, rel=1e-4)


def test_the_metric_of_the_limit_formula() -> None:
    by_weights = [limit_radius("pol", 100, metric=rescaled_weights(100, power=p)) for p in (0, 4)]
    assert by_weights == pytest.approx([limit_radius("pol", 100, metric=m) for m in ("mse", "twe")], rel=1e-5)
    assert by_weights[0] != pytest.approx(by_weights[1], rel=0.01)


def test_the_margin_is_that_of_the_slowest_model() -> None:
    pairs = [decayed(rate, 20, length) for rate, length in ((0.5, 10), (0.3, 20))]
    models = [exact_exponential(rate) for rate in (0.5, 0.3)]
    result = stability_verdict(models, [x for x, _ in pairs], [y for _, y in pairs])
    assert result.margin == pytest.approx(0.3)


def test_trained_models_give_their_evidence() -> None:
    lengths = (10, 20, 40, 80)
    pairs = [decayed(0.4, 20, length) for length in lengths]
    models = [exact_exponential(0.4) for _ in lengths]
    result = stability_verdict(models, [x for x, _ in pairs], [y for _, y in pairs])
    assert result.horizons == lengths and result.verdict == "stable"
    assert result.margin == pytest.approx(0.4) and 0.05 < result.error < 0.15
    for model, (x, y), radius in zip(models, pairs, result.radii, strict=True):
        assert slow_direction_radius(model, x, y) == [radius]


LENGTHS = (50, 100, 200, 400, 800)


def judged(radii: Sequence[float], lengths: Sequence[int] = LENGTHS, **options: Any) -> StabilityVerdict:
    return judge(lengths, radii, [0.0] * len(lengths), **options)


class Decay(nn.Module):
    """y_k = sum_s e^(-a s) x_(k-s), a itself the weight, in no layer of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        lags = torch.arange(x.shape[1], dtype=x.dtype)
        lag = lags[:, None] - lags
        return torch.einsum("ks,nsd->nkd", torch.exp(-self.a * lag).tril(), x)


def test_any_module_is_judged_along_random_directions() -> None:
    """Its one weight moves up and down; down, the error is 0.1 of the power where the weight alone says so."""
    model, lengths = Decay(), (8, 16, 32)
    xs = [generate("exp", 6, length, seed=length)[0] for length in lengths]
    data = xs, [model(x).detach() for x in xs]
    result = stability_verdict([model] * 3, *data, search="random", directions=4, seed=1)
    for x, y, radius in zip(*data, result.radii, strict=True):
        power = reference_error(torch.zeros_like(y), y)
        moved = Decay()
        with torch.no_grad():
            moved.a.sub_(radius)
        assert reference_error(moved(x), y).item() == pytest.approx(0.1 * power.item(), rel=1e-3)
    assert math.isnan(result.margin) and result.resolutions == (0.5 * 2**-52,) * 3
    with pytest.raises(ValueError, match="model must hold a cofm"):
        stability_verdict([model] * 3, *data)


@pytest.mark.parametrize(
    ("exponent", "scatter", "verdict"),
    [
        (-1.0, 0.05, "unstable"),
        (-0.44, 0.05, "unstable"),
        (-0.42, 0.05, "undecided"),
        (-0.18, 0.05, "undecided"),
        (-0.16, 0.05, "stable"),
        (0.3, 0.05, "stable"),
        (-0.31, 0.0, "unstable"),
        (-0.29, 0.0, "stable"),
    ],
)
def test_rule(exponent: float, scatter: float, verdict: str) -> None:
    """Two standard errors off -0.3: 0.131 for five horizons and no residuals."""
    result = judged([0.5 * (t / 100) ** exponent for t in LENGTHS], scatter=scatter, margin=0.25)
    assert result.verdict == verdict and result.margin == 0.25
    assert result.slope == pytest.approx(exponent, abs=1e-12) and result.trend == pytest.approx(0, abs=1e-12)
    # At the last of five equally spaced points a parabola's slope has the variance 1 / 10 + 16 / 14.
    error = scatter * math.sqrt((1 / 10 + 16 / 14) * 4 / 6) / math.log(2)
    assert result.error == pytest.approx(error, rel=1e-12, abs=1e-12)


def test_a_limit_and_a_power_over_the_same_fall() -> None:
    """Both lose the same share from T = 50 to 800; only one goes on."""
    levelling = [0.25 + 0.25 * 50 / t for t in LENGTHS]
    steady = [0.5 * (t / 50) ** (math.log(levelling[-1] / 0.5) / math.log(16)) for t in LENGTHS]
    assert judged([r**2 for r in levelling]).verdict == "stable"
    assert judged([r**2 for r in steady]).verdict == "unstable"


@pytest.mark.parametrize("radii", [[0.5 * t**-0.7 for t in LENGTHS], [0.5, 0.4, 0.3, 0.2, 0.0], [0.0] * 5])
def test_figure(radii: list[float], tmp_path: Path) -> None:
    """Every radius that is known, the slope with its errors, and the slope that decides."""
    figure = pytest.importorskip("matplotlib.figure")
    axes = figure.Figure().subplots()
    result = judged(radii)
    result.plot(axes, label="direct")
    marks, *lines = axes.get_lines()
    assert list(marks.get_ydata()) == [r for r in radii if r > 0]
    slopes = [math.log(y[1] / y[0]) / math.log(x[1] / x[0]) for x, y in (line.get_data() for line in lines)]
    assert slopes == pytest.approx([] if math.isnan(result.slope) else [result.slope, BOUND], rel=1e-9)
    assert axes.get_legend().get_texts()[0].get_text() == f"direct: {result.verdict}"
    judged([0.3] * 5).plot(axes)
    assert [float(tick) for tick in axes.get_xticks()] == list(LENGTHS)
    result.plot(tmp_path / "verdict.png")
    assert (tmp_path / "verdict.png").stat().st_size > 1000


def test_more_models_of_a_length_make_the_error_smaller() -> None:
    law = [0.5 * t**-0.36 for t in LENGTHS]
    assert judged(law).verdict == "undecided"
    thrice = judged(law * 3, LENGTHS * 3)
    assert thrice.verdict == "unstable" and thrice.horizons == tuple(sorted(LENGTHS * 3))
    scattered = judged([r * f for f in (1.3, 1.0, 0.77) for r in law], LENGTHS * 3)
    assert scattered.verdict == "undecided" and scattered.error > 2 * thrice.error


def test_rule_in_the_corners() -> None:
    assert judged((0.3, 0.2, 0.1, 0.1, 0.0)).verdict == "undecided"
    assert math.isnan(judged((0.3, 0.2, 0.1, 0.1, 0.0)).slope)
    swapped = judge((20, 10), (0.1, 0.4), (0.01, 0.04))
    assert (swapped.horizons, swapped.radii, swapped.resolutions) == ((10, 20), (0.4, 0.1), (0.04, 0.01))
    assert swapped.verdict == "undecided" and "3 different horizons" in swapped.reason
    # Only the five longest horizons decide.
    assert judged((100.0, 0.1, 0.1, 0.1, 0.1, 0.1), (1, 2, 4, 8, 16, 32)).slope == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    ("radii", "verdict", "slope"),
    [
        ((2.0, 2.0, 2.0, 2.0, 2.0), "stable", math.nan),
        ((0.1, 0.2, 0.5, 1.0, 2.0), "stable", math.nan),
        ((2.0, 2.0, 2.0, 2.0, 1.9), "undecided", math.nan),
        ((2.0, 2.0, 1.0, 0.5, 0.25), "unstable", -1.0),  # from 200 on
        ((2.0, 1.0, 1.0, 1.0, 1.0), "stable", 0.0),
    ],
)
def test_radii_at_the_end_of_the_search(radii: tuple[float, ...], verdict: str, slope: float) -> None:
    result = judged(radii, max_radius=2.0)
    assert result.verdict == verdict
    assert result.slope == pytest.approx(slope, abs=1e-12, nan_ok=True)


def test_the_slope_is_that_of_the_definition() -> None:
    radii = (1.07, 0.84, 0.9, 0.6, 0.55)
    result = judged(radii, scatter=0.03)
    assert (result.slope, result.error) == pytest.approx(reference.local_slope(LENGTHS, radii, 0.03), rel=1e-9)
    assert result.verdict == reference.decide(result.slope, result.error)
    assert (SCATTER, PRIOR_WEIGHT, BOUND) == (reference.SCATTER, reference.PRIOR_WEIGHT, reference.BOUND)


def test_radii_that_are_rounding_decide_nothing() -> None:
    """The kernel of "shift" is a window: slowed by any beta > 0, one more step is inside, and the true radius is 0."""
    result = stability_verdict(target="shift", parameterization="exp")
    assert all(0 < r < least for r, least in zip(result.radii, result.resolutions, strict=True))
    assert result.verdict == "undecided" and math.isnan(result.slope)
    assert "rounding" in result.reason and "T = [50, 100, 200, 400, 800]" in result.reason
    assert judge((10, 20, 40), (0.1, 0.1, 1e-9), (1e-8,) * 3, scatter=0).verdict == "undecided"
    assert judge((10, 20, 40), (1e-8,) * 3, (1e-8,) * 3, scatter=0).verdict == "stable"


def test_resolution_is_the_rounding_of_the_largest_rate() -> None:
    model = exact_exponential(0.5)
    assert resolution(model) == 0.5 * 2**-52 and resolution(model, torch.float32) == 0.5 * 2**-23
    weight = model.get_parameter("rnn.rate_l0").item()
    assert weight - resolution(model) / 8 == weight != weight - resolution(model)
    assert limit_resolution("direct") == 0 < limit_resolution("exp") == 2**-52
    x, y = decayed(0.5, 4, 10)
    found = stability_verdict([model, model], [x, x[:, :5]], [y, y[:, :5]], dtype=torch.float32)
    assert found.resolutions == (0.5 * 2**-23,) * 2


@pytest.mark.parametrize("large", [0, 1, 2])
def test_resolution_is_that_of_the_layer_with_the_largest_rate(large: int) -> None:
    model = RNNFunctional(1, 2, num_layers=3, dtype=torch.float64)
    with torch.no_grad():
        for layer in range(3):
            rate = torch.tensor([0.25, -4.0 if layer == large else 0.5])
            model.get_parameter(f"rnn.rate_l{layer}").copy_(rate)
    assert resolution(model) == 4 * 2**-52 and resolution(model, torch.float32) == 4 * 2**-23


MODEL = exact_exponential(0.5)
X = torch.zeros(2, 4, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "models or target"),
        ({"models": [MODEL], "target": "exp"}, ValueError, "models or target"),
        ({"target": "exp", "inputs": [X]}, ValueError, "inputs and targets must not"),
        ({"target": "square"}, ValueError, "target must be one of"),
        ({"target": 3}, TypeError, "target must be"),
        ({"target": "exp", "parameterization": "softplus"}, ValueError, "parameterization must be one of"),
        ({"target": "exp", "horizons": (0, 10)}, ValueError, "horizons must be"),
        ({"target": "exp", "horizons": (10,)}, ValueError, "horizons must be at least two"),
        ({"target": "exp", "horizons": (10, 10)}, ValueError, "horizons must be at least two different"),
        ({"target": "exp", "horizons": 100}, TypeError, "horizons must be a list"),
        ({"target": "exp", "horizons": (1.5, 10)}, TypeError, "horizons must be an int"),
        ({"target": lambda time: 1.0}, ValueError, "target must map times"),
        ({"target": "exp", "dt": "1"}, TypeError, "dt must be a real number"),
        ({"target": "exp", "dt": 0.0}, ValueError, "dt must be"),
        ({"target": "exp", "threshold": 0.0}, ValueError, "threshold must be"),
        ({"target": "exp", "max_radius": math.inf}, ValueError, "max_radius must be"),
        (
            {"models": [MODEL] * 2, "inputs": [X, X], "targets": [X, X], "search": "gradient"},
            ValueError,
            "search must be",
        ),
        ({"target": "exp", "metric": "sup"}, ValueError, "metric must be"),
        ({"models": MODEL, "inputs": [X], "targets": [X]}, TypeError, "models must be a list"),
        ({"models": [MODEL], "inputs": X, "targets": [X]}, TypeError, "inputs must be a list"),
        ({"models": [MODEL], "inputs": [X]}, TypeError, "targets must be a list"),
        ({"models": [MODEL], "inputs": [X, X], "targets": [X]}, ValueError, "one entry per horizon"),
        ({"models": [MODEL], "inputs": [X], "targets": [X]}, ValueError, "horizons must be at least two"),
    ],
)
def test_errors_name_the_argument(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        stability_verdict(**arguments)


def test_everything_is_checked_before_the_first_search(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*arguments: Any) -> float:
        raise AssertionError("a radius was searched for")

    monkeypatch.setattr(verdict, "_radius", search)
    with pytest.raises(ValueError, match="horizons must be at least two"):
        stability_verdict([MODEL, MODEL], [X, X], [X, X])
    with pytest.raises(ValueError, match="horizons must be at least two"):
        stability_verdict([], [], [])
    with pytest.raises(ValueError, match="model must hold a cofm"):
        stability_verdict([MODEL, torch.nn.Linear(1, 1, dtype=torch.float64)], [X, X[:, :3]], [X, X[:, :3]])


def test_errors_of_the_radius() -> None:
    with pytest.raises(ValueError, match="metric must be"):
        slow_direction_radius(MODEL, X, X, metric="sup")
    with pytest.raises(ValueError, match="model must hold a cofm"):
        slow_direction_radius(torch.nn.Linear(1, 1, dtype=torch.float64), X, X)
    with pytest.raises(ValueError, match="radii must be one per horizon"):
        judge((1, 2), (0.1,), (0.0, 0.0))
    with pytest.raises(ValueError, match="resolutions must be one per horizon"):
        judge((1, 2), (0.1, 0.1), (0.0,))
    with pytest.raises(ValueError, match="scatter must be >= 0"):
        judge((1, 2), (0.1, 0.1), (0.0, 0.0), scatter=-0.1)


def test_printed_it_is_one_line() -> None:
    verdict = stability_verdict(target="exp", horizons=(10, 20, 40))
    assert str(verdict) == f"{verdict.verdict}: {verdict.reason}"
