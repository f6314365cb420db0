"""Target functionals against their formulas, and data against the definition of a convolution."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from cofm_triton import reference, targets
from cofm_triton.loss import temporal_weights
from cofm_triton.targets import TARGETS, Target, causal_convolution, generate, target

EPS = torch.finfo(torch.float64).eps


def test_the_table_is_the_contract() -> None:
    assert TARGETS == ("exp", "pol", "shift", "twoparts", "airy", "sin")
    for name in TARGETS:
        assert target(name) is getattr(targets, name)
        assert target(name).name == name


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("exp", lambda s: math.exp(-s)),
        ("pol", lambda s: (1 + 0.1 * s) ** -1.1),
        ("shift", lambda s: float(9 < s < 11)),
        ("twoparts", lambda s: math.exp(-s) + math.exp(-((s - 9) ** 2))),
        ("sin", math.sin),
    ],
)
def test_impulse_responses(name: str, formula: Callable[[float], float]) -> None:
    points = [0.0, 0.5, 1.0, 8.5, 9.0, 9.5, 10.0, 11.0, 12.5, 99.0]
    s = torch.tensor(points, dtype=torch.float64)
    # Two elementary functions of a rounded argument below 100: their condition is at most 100.
    assert target(name).rho(s).tolist() == pytest.approx([formula(x) for x in points], rel=100 * EPS, abs=1e-300)


def test_airy() -> None:
    """Tabulated values of Ai, and the growth of its decay rate like sqrt(s)."""
    s = torch.tensor([6.0, 7.0, 5.0, 0.0], dtype=torch.float64)
    expected = [0.3550280538878172, 0.13529241631288141, 0.5355608832923521, -0.3291451736298926]
    assert target("airy").rho(s).tolist() == pytest.approx(expected, rel=1e-13)
    decayed = target("airy").rho(torch.tensor([66.0, 67.0], dtype=torch.float64))
    assert math.log(decayed[0] / decayed[1]) == pytest.approx(math.sqrt(60.5), rel=0.01)


@pytest.mark.parametrize("name", TARGETS)
def test_causal_and_absolute(name: str) -> None:
    t = torch.linspace(-50, 50, 101)
    rho, memory = target(name).rho(t), target(name).memory(t)
    assert (rho[t < 0] == 0).all()
    assert torch.equal(memory, rho.abs())
    assert target(name).rho(torch.tensor([-1e30])).item() == 0


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_narrow_dtypes(name: str, dtype: torch.dtype) -> None:
    s = torch.arange(20, dtype=dtype)
    rho = target(name).rho(s)
    assert rho.dtype == dtype
    # float32 inside (airy is a polynomial of some 20 terms), rounded once at the end.
    atol = 32 * torch.finfo(torch.float32).eps + torch.finfo(dtype).eps
    torch.testing.assert_close(rho.double(), target(name).rho(s.double()), rtol=torch.finfo(dtype).eps, atol=atol)


@pytest.mark.parametrize("name", TARGETS)
def test_decay_class_is_true(name: str) -> None:
    """The declared class bounds the memory on a long horizon, and no better class does."""
    functional = target(name)
    t = torch.tensor([50.0, 100.0, 200.0, 400.0], dtype=torch.float64)
    memory = functional.memory(t)
    rates = -memory.log().diff() / t.diff()
    if functional.decay == "exponential" and math.isfinite(functional.decay_rate):
        assert rates.tolist() == pytest.approx([functional.decay_rate] * 3, rel=1e-9)
    elif functional.decay == "exponential":
        assert rates[0] > 5  # sqrt(s - 6) and growing
    elif functional.decay == "polynomial":
        exponents = -memory.log().diff() / (1 + 0.1 * t).log().diff()
        assert exponents.tolist() == pytest.approx([functional.decay_rate] * 3, rel=1e-9)
    elif functional.decay == "compact":
        assert (memory == 0).all()
    else:
        assert functional.decay == "none"
        assert functional.memory(torch.linspace(1000, 1010, 1000)).max() > 0.99


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("length", [0, 1, 2, 33, 100])
@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_kernel_is_the_reference(name: str, length: int, dt: float) -> None:
    kernel = target(name).kernel(length, dt=dt)
    assert torch.equal(kernel, reference.targets.kernel(name, length, dt))


@pytest.mark.parametrize(
    ("name", "power"),
    [
        ("exp", 2.0713065195676945),
        ("pol", 14.785361699676622),
        ("twoparts", 4.349249465264158),
        ("sin", 74.55452192755097),
    ],
)
def test_error_of_the_zero_model(name: str, power: float) -> None:
    """P = sum_s V_s rho_s^2 on white inputs of unit variance."""
    tail = (temporal_weights(100).square() / 100).flip(0).cumsum(0).flip(0)
    assert (tail * target(name).kernel(100).square()).sum().item() == pytest.approx(power, rel=1e-10)


@pytest.mark.parametrize("length", [1, 2, 7, 100, 511, 512, 513, 700, 1024, 1500])
@pytest.mark.parametrize("channels", [1, 3])
def test_convolution_is_the_double_sum(length: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(length)
    kernel = torch.randn(length, generator=generator, dtype=torch.float64)
    x = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)
    y = causal_convolution(kernel, x)
    expected = torch.zeros_like(x)
    for s in range(length):
        expected[:, s:] += kernel[s] * x[:, : length - s]
    # A sum of `length` terms of random sign errs by sqrt(length) eps of its size, transforms by
    # log2(length) eps of the largest output.
    atol = 8 * math.log2(2 * length) * EPS * length**0.5 * 4
    torch.testing.assert_close(y, expected, rtol=0, atol=atol)
    assert y.is_contiguous()


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize(("number", "length"), [(1, 1), (5, 33), (8, 100), (2, 600)])
def test_data_is_the_reference(name: str, cumulative: bool, number: int, length: int) -> None:
    x, y = generate(name, number, length, dt=0.5, input="cumsum" if cumulative else "white", seed=3)
    x_ref, y_ref = reference.targets.generate(name, number, length, dt=0.5, cumulative=cumulative, seed=3)
    assert torch.equal(x, x_ref)
    scale = y_ref.abs().max().item() + 1
    torch.testing.assert_close(y, y_ref, rtol=0, atol=16 * EPS * length**0.5 * scale)


def test_same_seed_same_bits_other_seed_other_data() -> None:
    torch.manual_seed(0)
    first = generate("pol", 16, 100, seed=7)
    torch.manual_seed(1)
    second = generate(target("pol"), 16, 100, seed=7)
    other = generate("pol", 16, 100, seed=8)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])


def test_generating_leaves_the_global_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    generate("exp", 4, 10)
    assert torch.equal(before, torch.random.get_rng_state())


def test_white_inputs_have_standard_deviation_dt() -> None:
    x, _ = generate("exp", 100, 1000, dt=0.25)
    # 1e5 samples: the deviation of the estimate is 0.25 / sqrt(2e5) = 0.2 %.
    assert x.std().item() == pytest.approx(0.25, rel=0.01)
    assert x.mean().item() == pytest.approx(0, abs=0.25 * 4 / 1e5**0.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_outputs_belong_to_the_rounded_inputs(dtype: torch.dtype) -> None:
    x, y = generate("pol", 3, 50, dtype=dtype)
    assert x.dtype == y.dtype == dtype
    exact = targets.pol(x.double())
    torch.testing.assert_close(y.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-12)


@pytest.mark.parametrize(("number", "length"), [(0, 5), (3, 0), (0, 0)])
def test_empty_data(number: int, length: int) -> None:
    x, y = generate("exp", number, length)
    assert x.shape == y.shape == (number, length, 1)


def test_a_functional_is_linear_causal_and_time_homogeneous() -> None:
    x = torch.randn(2, 40, 1, dtype=torch.float64)
    for name in TARGETS:
        functional = target(name)
        y = functional(x, dt=0.5)
        torch.testing.assert_close(functional(-2 * x, dt=0.5), -2 * y, rtol=0, atol=1e-12)
        later = torch.cat([torch.zeros(2, 7, 1, dtype=torch.float64), x], 1)
        torch.testing.assert_close(functional(later, dt=0.5)[:, 7:], y, rtol=0, atol=1e-12)
        assert (functional(later, dt=0.5)[:, :7] == 0).all()


def test_heaviside_increments_are_the_memory() -> None:
    step = torch.ones(1, 100, 1, dtype=torch.float64)
    for name in TARGETS:
        increments = target(name)(step).flatten().diff()
        # Differences of sums up to about 10 (pol): absolute error, not relative.
        torch.testing.assert_close(
            increments.abs(),
            target(name).memory(torch.arange(1.0, 100).double()),
            rtol=0,
            atol=100 * EPS,
        )


def test_own_targets() -> None:
    own = Target("box", "1 for s < 3", "compact", math.inf, lambda s: (s < 3).to(s.dtype))
    x, y = generate(own, 2, 10)
    torch.testing.assert_close(y[:, 2:], x[:, 2:] + x[:, 1:-1] + x[:, :-2])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"target": "lorentz"}, ValueError, "target must be one of"),
        ({"target": None}, ValueError, "target must be one of"),
        ({"num_sequences": -1}, ValueError, "num_sequences must be at least 0"),
        ({"num_sequences": 2.0}, TypeError, "num_sequences must be an int"),
        ({"length": -1}, ValueError, "length must be at least 0"),
        ({"length": "3"}, TypeError, "length must be an int"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": None}, TypeError, "seed must be an int"),
        ({"seed": 2**64}, ValueError, "seed must be below"),
        ({"target": []}, ValueError, "target must be one of"),
        ({"dt": 0.0}, ValueError, "dt must be positive"),
        ({"dt": math.nan}, ValueError, "dt must be positive"),
        ({"dt": "1"}, TypeError, "dt must be a real number"),
        ({"input": "pink"}, ValueError, r"input must be one of \('white', 'cumsum'\)"),
        ({"dtype": torch.int32}, TypeError, "dtype must be a real floating-point"),
        ({"dtype": torch.complex64}, TypeError, "dtype must be a real floating-point"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments: dict[str, Any] = {"target": "exp", "num_sequences": 2, "length": 3} | change
    with pytest.raises(error, match=message):
        generate(**arguments)


@pytest.mark.parametrize(
    ("inputs", "error"),
    [(torch.ones(3, 2), ValueError), (torch.ones(1, 3, 2).int(), TypeError), (None, TypeError)],
)
def test_bad_inputs(inputs: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="inputs must"):
        targets.exp(inputs)


@pytest.mark.parametrize("s", [1.0, torch.tensor([1])])
def test_bad_times(s: Any) -> None:
    with pytest.raises(TypeError, match="s must be a real floating-point tensor"):
        targets.exp.rho(s)
