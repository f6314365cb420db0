"""The table of parameterisations against the reference, exact inverses, gradients and moduli."""

import copy
import math
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cofm_triton import reference
from cofm_triton.step.discretization import effective_rate, linear_decay, linear_gain
from cofm_triton.step.parameterization import (
    PARAMETERIZATIONS,
    lru_normalization,
    parameterization,
    spread_rates,
    spread_weights,
)
from cofm_triton.step.parameterizations.exp import LIMIT

STABLE = ("exp", "softplus", "inverse", "lru")
# Every value and derivative is a handful of roundings, each at most half an ulp, with condition
# numbers up to |w| exp(w) / ... <= 20 on the interval tested.
ULPS = 100


def weights(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.linspace(-12, 5, 173, dtype=dtype)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rate_and_derivative_are_the_definitions(name: str, dtype: torch.dtype) -> None:
    w = weights(dtype).requires_grad_()
    p, definition = parameterization(name), reference.parameterization(name)
    rate = p.rate(w)
    (slope,) = torch.autograd.grad(rate.sum(), w)
    wide = w.detach().double()
    rtol, tiny = ULPS * torch.finfo(dtype).eps, torch.finfo(dtype).tiny
    for ours, theirs in (
        (rate, definition.rate(wide)),
        (p.derivative(w), definition.derivative(wide)),
        (slope, definition.derivative(wide)),
        (p.gradient_scale(w), definition.gradient_scale(wide)),
    ):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.detach().double(), theirs, rtol=rtol, atol=tiny)


EXACT: dict[str, Any] = {
    "direct": lambda mp, w: w,
    "relu": lambda mp, w: max(w, 0),
    "exp": lambda mp, w: mp.exp(min(w, 30)),
    "softplus": lambda mp, w: mp.log1p(mp.exp(w)),
    "inverse": lambda mp, w: 1 / (w * w + mp.mpf(1) / 2),
    "lru": lambda mp, w: -mp.expm1(-mp.exp(min(w, 30))),
}


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("source", ["library", "reference"])
def test_rates_and_steps_are_right_to_fifty_digits(name: str, dtype: torch.dtype, source: str) -> None:
    """f, what exact steps make of it, and their derivatives by w: in the definition too. Euler's method is 1 - dt f."""
    mp = pytest.importorskip("mpmath")  # comes with torch
    ours = source == "library"
    lookup: Any = parameterization if ours else reference.parameterization
    effective = effective_rate if ours else reference.effective_rate
    decay = linear_decay if ours else reference.linear_decay
    gain = linear_gain if ours else reference.linear_gain
    w = torch.tensor([-20.0, -3.5, -0.5, 0.5, 2.0, 3.0, 3.75, 29.5, 30.5, 80.0], dtype=dtype, requires_grad=True)
    rate = lookup(name).rate(w)
    made = rate, *(function(rate, 0.5, "exact") for function in (effective, decay, gain))
    slopes = [torch.autograd.grad(value.sum(), w, retain_graph=True)[0] for value in made]
    with mp.workdps(50):
        for i, at in enumerate(w.tolist()):
            functions = (
                lambda v: EXACT[name](mp, v),
                lambda v: -mp.expm1(-EXACT[name](mp, v) / 2) * 2,
                lambda v: mp.exp(-EXACT[name](mp, v) / 2),
                lambda v: -mp.expm1(-f / 2) / f if (f := EXACT[name](mp, v)) else mp.mpf(0.5),
            )
            exponent = float(abs(functions[0](mp.mpf(at)))) / 2  # an exponential multiplies the error of its exponent
            for value, slope, function in zip(made, slopes, functions, strict=True):
                for found, wanted in ((value[i], function(mp.mpf(at))), (slope[i], mp.diff(function, mp.mpf(at)))):
                    allowed = ULPS * torch.finfo(dtype).eps * (1 + exponent) * abs(wanted)
                    if allowed == mp.inf or abs(wanted) > torch.finfo(dtype).max:
                        continue
                    assert abs(mp.mpf(found.item()) - wanted) <= allowed + torch.finfo(dtype).tiny


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_derivatives_to_second_order(name: str) -> None:
    w = torch.tensor([-3.1, -0.4, 0.3, 1.7], dtype=torch.float64, requires_grad=True)
    p = parameterization(name)
    assert torch.autograd.gradcheck(p.rate, (w,))
    assert torch.autograd.gradgradcheck(p.rate, (w,))


@pytest.mark.parametrize("source", [parameterization, reference.parameterization], ids=["library", "reference"])
@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_autograd_agrees_where_branches_meet(name: str, source: Any) -> None:
    """Up to the limit of exp, and where 1 - exp(-x) goes another way; releases differ in clamp's derivative there."""
    w = torch.tensor([0.0, 1.0, LIMIT], dtype=torch.float64, requires_grad=True)
    entry = source(name)
    (slope,) = torch.autograd.grad(entry.rate(w).sum(), w)
    torch.testing.assert_close(slope, entry.derivative(w))


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_everything_is_finite_at_extreme_weights(name: str, dtype: torch.dtype) -> None:
    extreme = [-60000.0, -700.0, -88.0, -1e-6, 0.0, 1e-6, 29.9, 30.1, 89.0, 710.0, 60000.0]
    w = torch.tensor(extreme, dtype=dtype, requires_grad=True)
    rate = parameterization(name).rate(w)
    # Relative to the rate where that is large: 1e13 itself does not fit into float16.
    relative = rate / rate.detach().clamp(min=1)
    (slope,) = torch.autograd.grad(relative.sum(), w, create_graph=True)
    assert rate.isfinite().all()
    assert slope.isfinite().all()
    if slope.requires_grad:
        assert torch.autograd.grad(slope.sum(), w)[0].isfinite().all()


@pytest.mark.parametrize("name", STABLE)
def test_stable_rates_are_positive(name: str) -> None:
    assert (parameterization(name).rate(weights(torch.float32)) > 0).all()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_weights_give_float32_rates(name: str, dtype: torch.dtype) -> None:
    w = torch.tensor([-4.0, 0.5, 2.0], dtype=dtype)
    p = parameterization(name)
    assert torch.equal(p.rate(w), p.rate(w.float()))
    assert p.inverse(p.rate(w).clamp(min=0.1, max=0.9)).dtype == torch.float32


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@given(exponent=st.floats(-12, 1.5))
def test_inverse_is_a_right_inverse(name: str, exponent: float) -> None:
    p = parameterization(name)
    rate = torch.tensor([10.0**exponent], dtype=torch.float64)
    if bool(p.range.contains(rate)):
        # log2(1e12) = 40 magnifies the rounding of w = log(rate) at most 28 times; near 1 the
        # double logarithm of "lru" loses what 1 - rate has lost, which the round trip gives back.
        torch.testing.assert_close(p.rate(p.inverse(rate)), rate, rtol=ULPS * 2.3e-16, atol=0)


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("direct", math.inf),
        ("direct", math.nan),
        ("relu", -1e-9),
        ("exp", 0.0),
        ("exp", -1.0),
        ("exp", 1e14),
        ("softplus", 0.0),
        ("softplus", math.inf),
        ("inverse", 2.0001),
        ("inverse", 0.0),
        ("lru", 1.0),
        ("lru", 0.0),
        ("lru", math.nan),
    ],
)
def test_rates_out_of_range_are_refused(name: str, bad: float) -> None:
    rates = torch.tensor([0.5, bad], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"rate must lie in .*range.*got"):
        parameterization(name).inverse(rates)


@pytest.mark.parametrize(("name", "edge"), [("relu", 0.0), ("inverse", 2.0), ("direct", -3.0)])
def test_rates_on_a_closed_edge_are_accepted(name: str, edge: float) -> None:
    p = parameterization(name)
    rate = torch.tensor([edge], dtype=torch.float64)
    assert torch.equal(p.rate(p.inverse(rate)), rate)


def test_modulus_in_numbers() -> None:
    """math: exp and softplus e^beta - 1; inverse beta (beta + sqrt(beta^2 + 4 b)) / (2 b)."""
    for name in ("exp", "softplus"):
        assert parameterization(name).modulus(0.1) == pytest.approx(0.10517091807565, rel=1e-12)
    inverse = parameterization("inverse").modulus
    assert inverse(0.1) == pytest.approx(0.15177446878758, rel=1e-12)
    assert inverse(0.5) == pytest.approx(1.0, rel=1e-12)
    assert inverse(1.0) == pytest.approx(2.7320508075689, rel=1e-12)
    assert parameterization("direct").modulus(1e-9) == math.inf
    assert parameterization("relu").modulus(1e-9) == math.inf


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_modulus_of_no_perturbation_is_zero(name: str) -> None:
    assert parameterization(name).modulus(0) == 0


@pytest.mark.parametrize("name", STABLE)
@pytest.mark.parametrize("beta", [0.01, 0.3, 1.0, 2.5])
def test_modulus_is_the_supremum(name: str, beta: float) -> None:
    p = parameterization(name)
    w = torch.linspace(-25, 25, 20001, dtype=torch.float64)[:, None]
    d = torch.linspace(-beta, beta, 41, dtype=torch.float64)
    found = (p.rate(w) / p.rate(w + d) - 1).abs().max().item()
    # From below, and reached: by the grid up to its step, and e^-25 from w = -infinity.
    assert found <= p.modulus(beta) * (1 + 1e-12)
    assert found == pytest.approx(p.modulus(beta), rel=1e-3)


@pytest.mark.parametrize("beta", [-1e-12, -1.0, math.nan])
def test_modulus_refuses_a_negative_radius(beta: float) -> None:
    with pytest.raises(ValueError, match="beta must be >= 0"):
        parameterization("exp").modulus(beta)


def test_modulus_beyond_the_largest_number_is_infinite() -> None:
    assert parameterization("exp").modulus(1e4) == math.inf


@pytest.mark.parametrize("name", ["", "Exp", "identity", None, 3, ["exp"]])
def test_unknown_names(name: object) -> None:
    with pytest.raises(ValueError, match=r"parameterization must be one of \('direct', 'exp'"):
        parameterization(name)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [0.5, [0.5], torch.tensor([1]), torch.tensor([1j])])
@pytest.mark.parametrize("method", ["rate", "inverse", "derivative", "gradient_scale"])
def test_only_real_floating_point_tensors(method: str, bad: object) -> None:
    with pytest.raises(TypeError, match=r"^(w|rate) must"):
        getattr(parameterization("exp"), method)(bad)


@pytest.mark.parametrize("bad", ["0.1", None, True, torch.tensor([0.1])])
def test_modulus_takes_numbers(bad: object) -> None:
    with pytest.raises(TypeError, match="beta must be a real number"):
        parameterization("exp").modulus(bad)  # type: ignore[arg-type]


def test_the_table_is_the_contract() -> None:
    assert PARAMETERIZATIONS[0] == "direct"
    assert set(PARAMETERIZATIONS) >= {"direct", "relu", "exp", "softplus", "inverse", "lru"}
    assert [parameterization(name).name for name in PARAMETERIZATIONS] == list(PARAMETERIZATIONS)


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_copies_and_pickles(name: str) -> None:
    p = parameterization(name)
    assert pickle.loads(pickle.dumps(p)) == p
    assert copy.deepcopy(p) == p


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
@pytest.mark.parametrize("count", [1, 2, 3, 64])
@pytest.mark.parametrize("dt", [1e-3, 0.1, 1.0, 7.0])
@pytest.mark.parametrize("scale", [10.0, 1000.0, 1e6])
def test_spread_rates(name: str, count: int, dt: float, scale: float) -> None:
    p = parameterization(name)
    rates = spread_rates(count, p, dt=dt, max_time_scale=scale)
    assert rates.shape == (count,)
    assert rates.dtype == torch.float64
    assert p.range.contains(rates).all()
    assert (rates > 0).all()
    assert (dt * rates <= 1).all()  # Euler's method is stable and does not even oscillate
    logs = rates.log()
    high = min(1 / dt, 0.9 * p.range.high)
    # Ends and the equal steps between them are exact up to the rounding of log and power.
    if count == 1:
        assert logs.item() == pytest.approx(math.log(high) - math.log(scale) / 2, abs=1e-12)
    else:
        assert logs[0].item() == pytest.approx(math.log(high / scale), abs=1e-12)
        assert logs[-1].item() == pytest.approx(math.log(high), abs=1e-12)
        step = math.log(scale) / (count - 1)
        assert logs.diff().tolist() == pytest.approx([step] * (count - 1), abs=1e-12)


def test_spread_rates_up_to_a_faster_one() -> None:
    rates = spread_rates(3, parameterization("exp"), dt=0.5, max_time_scale=100.0, fastest=4.0)
    assert rates.tolist() == pytest.approx([0.02, 0.4, 8.0], rel=1e-12)
    bounded = parameterization("lru")
    rates = spread_rates(3, bounded, max_time_scale=100.0, fastest=1e9)
    assert bounded.range.contains(rates).all() and bool(rates.isfinite().all())


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_spread_weights_give_the_spread_rates(name: str) -> None:
    p = parameterization(name)
    options = {"dt": 0.1, "max_time_scale": 1e4}
    assert torch.equal(spread_weights(7, p, **options), p.inverse(spread_rates(7, p, **options)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_roundings_of_the_lru_normalization(dtype: torch.dtype) -> None:
    """g = sqrt(1 - a^2) and g' = -a a' / g, products without a difference, at the same w."""
    w = torch.linspace(-14, 3, 400, dtype=dtype).requires_grad_()
    value = lru_normalization(w)
    (slope,) = torch.autograd.grad(value.sum(), w)
    size = w.detach().double().exp()
    share = torch.exp(-size)
    rate = -torch.expm1(-size)
    expected = torch.sqrt(share * (2 - share))
    bound = 4 * torch.finfo(dtype).eps * (1 + size)
    assert ((value.double() / expected - 1).abs() <= bound).all()
    assert ((slope.double() / (-rate * size * share / expected) - 1).abs() <= bound).all()
    theirs = w.detach().double().requires_grad_()
    (right,) = torch.autograd.grad(reference.lru_normalization(theirs).sum(), theirs)
    torch.testing.assert_close(right, -rate * size * share / expected, rtol=1e-13, atol=0)


def test_lru_normalization() -> None:
    """sqrt(1 - a^2) to the last digits, with a finite derivative also where a rounds to 1."""
    w = torch.tensor([-9.0, -1.0, 0.0, 1.0, 8.0], dtype=torch.float64, requires_grad=True)
    value = lru_normalization(w)
    assert torch.autograd.grad(value.sum(), w)[0].isfinite().all()
    for raw, ours in zip(w.tolist(), value.tolist(), strict=True):
        share = math.exp(-math.exp(raw))  # 1 - a^2 = share (2 - share)
        assert ours == pytest.approx(math.sqrt(share) * math.sqrt(2 - share), rel=1e-13)
    with pytest.raises(TypeError, match="w must have a real floating-point dtype"):
        lru_normalization(torch.zeros(1, dtype=torch.int64))


NUMBERS = [(1.0, 0.1), (4.0, 0.5), (0.3, 2.0)]


@pytest.mark.parametrize(("a", "b"), NUMBERS)
def test_numbers_of_inverse(a: float, b: float) -> None:
    """1 / (a w^2 + b), by the definition with the same numbers."""
    ours, theirs = parameterization("inverse", a=a, b=b), reference.parameterization(f"inverse(a={a}, b={b})")
    w = torch.linspace(-7, 7, 61, dtype=torch.float64)
    torch.testing.assert_close(ours.rate(w), 1 / (a * w * w + b), rtol=1e-15, atol=0)
    torch.testing.assert_close(ours.rate(w), theirs.rate(w), rtol=1e-15, atol=0)
    torch.testing.assert_close(ours.derivative(w), theirs.derivative(w), rtol=1e-14, atol=0)
    torch.testing.assert_close(ours.rate(ours.inverse(ours.rate(w))), ours.rate(w), rtol=1e-12, atol=0)
    assert ours.modulus(0.7) == pytest.approx(theirs.modulus(0.7), rel=1e-14)
    assert ours.range.high == 1 / b
    assert torch.autograd.gradcheck(ours.rate, (w.requires_grad_(),))


def test_the_modulus_of_inverse_is_reached() -> None:
    kind = parameterization("inverse", a=4.0, b=0.1)
    w = torch.linspace(-30, 30, 600_001, dtype=torch.float64)
    moved = torch.maximum((kind.rate(w) / kind.rate(w + 0.5) - 1).abs(), (kind.rate(w) / kind.rate(w - 0.5) - 1).abs())
    assert moved.max().item() == pytest.approx(kind.modulus(0.5), rel=1e-6)


def test_euler_decay_is_that_of_stable_ssm() -> None:
    """arXiv 2311.14495: 1 - 1 / (a w^2 + b)."""
    w = torch.linspace(-3, 3, 13, dtype=torch.float64)
    rate = parameterization("inverse", a=2.0, b=0.1).rate(w)
    torch.testing.assert_close(linear_decay(rate, 1.0, "euler"), 1 - 1 / (2 * w**2 + 0.1))


def test_names_with_numbers() -> None:
    kind = parameterization("inverse", b=0.1)
    assert kind.name == "inverse(a=1.0, b=0.1)"
    assert parameterization("inverse(b=0.1)") is parameterization(kind) is parameterization(kind.name) is kind
    assert parameterization("inverse", a=1, b=0.5) is parameterization("inverse")
    assert pickle.loads(pickle.dumps(kind)) is copy.deepcopy(kind) is kind


@pytest.mark.parametrize(
    ("name", "numbers", "error", "message"),
    [
        ("inverse", {"c": 1.0}, TypeError, r"takes the numbers \('a', 'b'\), got c=1.0"),
        ("exp", {"a": 1.0}, TypeError, "takes no numbers, got a=1.0"),
        ("inverse", {"a": "1"}, TypeError, "a must be a number"),
        ("inverse", {"b": 0.0}, ValueError, "b of parameterization 'inverse' must be finite and positive, got 0.0"),
        ("inverse", {"b": math.nan}, ValueError, "must be finite and positive"),
        ("inverse(a=1.0 b=2)", {}, ValueError, "must read like"),
        ("sigmoid(a=1.0)", {}, ValueError, "must be one of"),
    ],
)
def test_wrong_numbers(name: str, numbers: dict[str, float], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        parameterization(name, **numbers)
