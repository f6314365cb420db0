"""Checks of numbers, names and flags: what is accepted comes back, all else is refused by name."""

import warnings
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch

import cofm_triton as cofm
from cofm_triton.experiment.training import initial_model, train_linear, train_sequences
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.memory.decay_fit import fit_decay
from cofm_triton.memory.function import memory_function
from cofm_triton.perturbation.batching import check_memory_limit
from cofm_triton.perturbation.directions import random_direction
from cofm_triton.perturbation.quadratic_form import QuadraticForm
from cofm_triton.perturbation.verdict import judge, limit_radius, slow_direction_radius, stability_verdict
from cofm_triton.step.parameterization import parameterization, spread_rates
from cofm_triton.support.scalars import (
    as_number,
    check_bool,
    check_choice,
    check_dtype,
    check_int,
    check_not_negative,
    check_number,
    check_real,
)
from cofm_triton.targets import generate


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), torch.tensor(3)])
def test_integers(value: Any) -> None:
    found = check_int("n", value, 3, 4)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "n must be an int, got bool"),
        (3.0, TypeError, "n must be an int, got float"),
        ("3", TypeError, "n must be an int, got str"),
        (None, TypeError, "n must be an int, got NoneType"),
        (np.float64(3), TypeError, "n must be an int, got float64"),
        (np.array([3]), TypeError, r"n must be an int, got ndarray of shape \(1,\) and dtype int64"),
        (torch.tensor([3]), TypeError, r"n must be an int, got Tensor of shape \(1,\) and dtype torch.int64"),
        (torch.tensor(3.0), TypeError, r"n must be an int, got Tensor of shape \(\) and dtype torch.float32"),
        (torch.tensor(True), TypeError, r"n must be an int, got Tensor of shape \(\) and dtype torch.bool"),
        (2, ValueError, "n must be at least 3, got 2"),
        (4, ValueError, "n must be below 4, got 4"),
    ],
)
def test_no_integers(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_int("n", value, 3, 4)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int64(2), np.array(2.0), torch.tensor(2.0)])
def test_numbers(value: Any) -> None:
    found = check_number("dt", value, above=1.0)
    assert found == 2 and type(found) is float


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (True, TypeError, "dt must be a real number, got bool"),
        ("1", TypeError, "dt must be a real number, got str"),
        (1j, TypeError, "dt must be a real number, got complex"),
        (np.True_, TypeError, "dt must be a real number, got bool"),
        (torch.tensor(2j), TypeError, r"dt must be a real number, got Tensor of shape \(\) and dtype torch.complex64"),
        (torch.tensor([2.0]), TypeError, r"dt must be a real number, got Tensor of shape \(1,\)"),
        (torch.tensor(2.0, requires_grad=True), TypeError, "that requires a gradient"),
        (10**400, ValueError, "dt must be greater than 1 and finite, got 1000"),
        (1.0, ValueError, "dt must be greater than 1 and finite, got 1.0"),
        (float("nan"), ValueError, "dt must be greater than 1 and finite, got nan"),
        (float("inf"), ValueError, "dt must be greater than 1 and finite, got inf"),
    ],
)
def test_no_numbers(value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_number("dt", value, above=1.0)


def test_positive_numbers_are_called_so() -> None:
    with pytest.raises(ValueError, match="dt must be positive and finite, got 0"):
        check_number("dt", 0)


def test_numbers_beyond_floats_are_infinite() -> None:
    assert as_number(10**400) == float("inf") and as_number(Fraction(-(10**400))) == -float("inf")


def test_real_numbers_and_those_that_are_not_negative() -> None:
    assert check_real("x", np.float32("-inf")) == -float("inf")
    assert check_not_negative("x", np.int8(0)) == 0.0
    assert check_not_negative("x", float("inf"), finite=False) == float("inf")
    for value, message in ((-1e-9, "x must be >= 0 and finite"), (float("nan"), ">= 0"), (float("inf"), "finite")):
        with pytest.raises(ValueError, match=message):
            check_not_negative("x", value)


@pytest.mark.parametrize("value", [True, np.True_, np.array(True), torch.tensor(True)])
def test_flags(value: Any) -> None:
    assert check_bool("reverse", value) is True


def test_flags_names_and_dtypes() -> None:
    check_choice("norm", "inf", ["inf"])
    check_dtype("dtype", torch.float32, [torch.float32])
    for flag in (1, "no", None, np.int64(1), torch.tensor([True])):
        with pytest.raises(TypeError, match="reverse must be a bool"):
            check_bool("reverse", flag)
    for name in ("l2", None, ["inf"]):
        with pytest.raises(ValueError, match=r"norm must be one of \('inf',\), got"):
            check_choice("norm", name, ["inf"])
    for dtype in (torch.float64, "float32", None):
        with pytest.raises(TypeError, match=r"dtype must be one of torch\.float32, got"):
            check_dtype("dtype", dtype, [torch.float32])


X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 3, 2)
MODEL = RNNFunctional(2, 2, nonlinearity="linear", bias=False, dt=0.25, dtype=torch.float64)
Y = torch.ones(2, 3, 1, dtype=torch.float64)
CURVE = cofm.perturbation_error(MODEL, X, Y, radii=[0.25], directions=3)
TIMES = torch.arange(20, dtype=torch.float64)


class Filter(torch.nn.Module):
    """One without a size and a step of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cumsum(1)


def trained(**options: Any) -> Any:
    """Weights after a step or two, and the loss."""
    models = [initial_model(2, parameterization="exp")]
    x = X[:, :, :1]
    loss = train_sequences(models, x, x, **({"steps": 1, "batch_size": 1} | options))
    return loss, models[0].rnn.rate_l0.detach()


def trained_linear(**options: Any) -> Any:
    """The same of a linear model on the whole data."""
    models = [initial_model(2, parameterization="exp")]
    loss = train_linear(models, QuadraticForm.from_data(X[:, :, :1], X[:, :, :1]), **({"steps": 1} | options))
    return loss, models[0].rnn.rate_l0.detach()


def layer(*sizes: Any, **options: Any) -> Any:
    """The options as the layer keeps them."""
    made = RNNFunctional(*sizes, **options) if len(sizes) == 3 else StableRNN(*(sizes or (2, 2)), **options)
    kept = {k: v for module in made.modules() for k, v in vars(module).items() if not k.startswith("_")}
    return repr(made), kept


def heaviside(**options: Any) -> Any:
    """The memory function of a foreign module."""
    found = memory_function(Filter(), **({"length": 4, "input_size": 1} | options))
    return found.values, found.times


def sweep(**options: Any) -> Any:
    """A memory sweep."""
    chosen: dict[str, Any] = {"length": 3, "radii": [0.25], "directions": 1} | options
    return cofm.memory_sweep(MODEL, **chosen).values


def moved(**options: Any) -> Any:
    """A perturbation curve."""
    chosen: dict[str, Any] = {"radii": [0.25], "directions": 1} | options
    return cofm.perturbation_error(MODEL, X, Y, **chosen).per_direction


INTEGERS: dict[str, tuple[int, Callable[[Any], Any]]] = {
    "input_size": (3, lambda n: layer(n, 2)),
    "hidden_size": (3, lambda n: layer(2, n)),
    "num_layers": (2, lambda n: layer(num_layers=n)),
    "output_size": (2, lambda n: layer(2, n, n)),
    "count": (3, lambda n: spread_rates(n, parameterization("exp"))),
    "length of weights": (3, cofm.temporal_weights),
    "length of a kernel": (3, cofm.targets.target("exp").kernel),
    "num_sequences": (2, lambda n: generate("exp", n, 3)),
    "length": (3, lambda n: generate("exp", 2, n)),
    "seed": (7, lambda n: generate("exp", 2, 3, seed=n)),
    "length of a memory": (4, lambda n: heaviside(length=n)),
    "samples": (3, lambda n: heaviside(length=9, samples=n)),
    "input_size of a module": (1, lambda n: heaviside(input_size=n)),
    "length of a sweep": (4, lambda n: sweep(length=n)),
    "directions of a sweep": (2, lambda n: sweep(directions=n)),
    "directions": (2, lambda n: moved(directions=n)),
    "seed of directions": (7, lambda n: moved(seed=n)),
    "memory_limit": (2**30, check_memory_limit),
    "index": (7, lambda n: random_direction({"w": torch.Size([3])}, n)["w"]),
    "length of a limit": (9, lambda n: limit_radius("exp", n)),
    "horizons": (9, lambda n: stability_verdict(target="exp", horizons=[5, n]).radii),
    "known horizons": (9, lambda n: judge([5, n], [1.0, 1.0], [0.0, 0.0])),
    "width": (3, lambda n: initial_model(n, parameterization="exp").rnn.rate_l0.detach()),
    "seed of a model": (3, lambda n: initial_model(2, parameterization="exp", seed=n).rnn.rate_l0.detach()),
    "steps": (2, lambda n: trained(steps=n)),
    "steps of a linear model": (2, lambda n: trained_linear(steps=n)),
    "batch_size": (2, lambda n: trained(batch_size=n)),
    "seed of batches": (3, lambda n: trained(seed=n)),
}
NUMBERS: dict[str, Callable[[Any], Any]] = {
    "dropout": lambda a: layer(num_layers=2, dropout=a),
    "dt": lambda a: layer(dt=a),
    "max_time_scale": lambda a: layer(max_time_scale=4 / a),
    "dt of a scan": lambda a: cofm.rnn_scan(X, X[0, 0].abs(), dt=a),
    "dt of a dense one": lambda a: cofm.dense_rnn(X, X[0, :2].abs(), dt=a),
    "dt of rates": lambda a: spread_rates(3, parameterization("exp"), dt=a),
    "beta": parameterization("softplus").modulus,
    "dt of a kernel": lambda a: cofm.targets.target("exp").kernel(3, dt=a),
    "dt of a target": lambda a: cofm.targets.target("exp")(X, dt=a),
    "dt of data": lambda a: generate("exp", 2, 3, dt=a),
    "radius": lambda a: heaviside(radius=a),
    "min_radius": lambda a: heaviside(min_radius=a),
    "dt of a module": lambda a: heaviside(dt=a),
    "dt of a model": lambda a: memory_function(MODEL, 3, dt=a).times,
    "initial_output": lambda a: heaviside(initial_output=a),
    "radii of a sweep": lambda a: sweep(radii=[a]),
    "radius of a sweep": lambda a: sweep(radius=a),
    "radii": lambda a: moved(radii=[a]),
    "q": lambda a: CURVE.quantile(a),
    "dt of a limit": lambda a: limit_radius("exp", 9, dt=a),
    "threshold": lambda a: limit_radius("exp", 9, threshold=a),
    "max_radius": lambda a: stability_verdict(target="exp", horizons=[5, 9], max_radius=a),
    "threshold of models": lambda a: slow_direction_radius(MODEL, X, Y, threshold=a, max_radius=a),
    "known radii": lambda a: judge([5, 9], [a, a], [a, a], max_radius=a, margin=a, scatter=a),
    "floor": lambda a: fit_decay(TIMES, torch.exp(-TIMES / 9), floor=a, beta0=a),
    "dt of an initial model": lambda a: initial_model(2, parameterization="exp", dt=a).rnn.dt,
    "learning_rate": lambda a: trained(learning_rate=a, steps=2),
    "learning_rate of a linear model": lambda a: trained_linear(learning_rate=a, steps=2),
}
FLAGS: dict[str, Callable[[Any], Any]] = {
    **{name: lambda b, name=name: layer(**{name: b}) for name in ("bias", "batch_first", "bidirectional")},  # type: ignore[misc]
    "batch_first of a model": lambda b: layer(2, 2, 2, batch_first=b),
    "constrained": lambda b: layer(recurrence="dense", constrained=b),
    "normalize_input": lambda b: layer(parameterization="lru", normalize_input=b),
    "oscillating": lambda b: layer(oscillating=b),
    "reverse": lambda b: cofm.linear_scan(X, X[0, 0], reverse=b),
}


def same(call: Callable[[Any], Any], value: Any, other: Any) -> bool:
    """Whether two values give one result, down to the types of numbers; both start from the same random numbers."""

    def result(given: Any) -> Any:
        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.manual_seed(0)
            return call(given)

    return alike(result(value), result(other))


def alike(first: Any, second: Any) -> bool:
    """Equality of trees of tensors, with types."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, (tuple, list)):
        return len(first) == len(second) and all(map(alike, first, second))
    return type(first) is type(second) and repr(first) == repr(second)


@pytest.mark.parametrize("kind", [np.int64, np.uint32, np.array, torch.tensor])
@pytest.mark.parametrize("argument", INTEGERS)
def test_integers_of_all_kinds(argument: str, kind: Callable[[int], Any]) -> None:
    value, call = INTEGERS[argument]
    assert same(call, value, kind(value))


@pytest.mark.parametrize("argument", INTEGERS)
def test_what_is_no_integer(argument: str) -> None:
    value, call = INTEGERS[argument]
    for wrong in (float(value), np.float64(value), torch.tensor([value]), np.array([value]), True, np.True_, "3"):
        with pytest.raises(TypeError, match=r"int|count|dicts"):
            call(wrong)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.float64, np.array, torch.tensor])
@pytest.mark.parametrize("argument", NUMBERS)
def test_numbers_of_all_kinds(argument: str, kind: Callable[[float], Any]) -> None:
    assert same(NUMBERS[argument], 0.25, kind(0.25))


@pytest.mark.parametrize("argument", [name for name in NUMBERS if name != "max_time_scale" and name != "known radii"])
def test_what_is_no_number(argument: str) -> None:
    for wrong in (True, np.True_, "0.25", 0.25j, np.complex64(0.25)):
        with pytest.raises((TypeError, ValueError), match="number"):
            NUMBERS[argument](wrong)
    if argument != "initial_output":  # one per output
        with pytest.raises((TypeError, ValueError), match="number"):
            NUMBERS[argument](torch.tensor([0.25]))


@pytest.mark.parametrize("argument", FLAGS)
def test_flags_of_all_kinds(argument: str) -> None:
    for kind in (np.bool_, np.array, torch.tensor):
        assert same(FLAGS[argument], True, kind(True))
    may_be_left_open = argument in ("normalize_input", "oscillating")
    for wrong in (1, 1.0, "yes", torch.tensor([True]), *(() if may_be_left_open else (None,))):
        with pytest.raises((TypeError, ValueError), match=r"bool|batch_first must be True"):
            FLAGS[argument](wrong)


def test_sizes_of_a_module_may_be_of_any_kind() -> None:
    module = Filter()
    module.input_size = np.int64(1)  # type: ignore[assignment]
    assert memory_function(module, 2).argmax.shape[1] == 1
