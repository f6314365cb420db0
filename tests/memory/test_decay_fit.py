"""Exponential or polynomial: the six targets, sums of exponentials, noise, ends, and bad arguments."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cofm_triton import targets
from cofm_triton.memory.decay_fit import _is_decay, fit_decay


def times(length: int, dt: float = 1.0) -> Tensor:
    return torch.arange(length, dtype=torch.float64) * dt


@pytest.mark.parametrize(("length", "dt"), [(60, 1.0), (100, 1.0), (1000, 1.0), (1000, 0.1)])
@pytest.mark.parametrize("name", targets.TARGETS)
def test_targets(name: str, length: int, dt: float) -> None:
    target, t = targets.target(name), times(length, dt)
    fit = fit_decay(t, target.memory(t))
    assert fit.decay == {"polynomial": "polynomial", "none": "none"}.get(target.decay, "exponential")
    if name == "airy":  # faster than every exponential: its local rate at time t is sqrt(t - 6)
        assert math.sqrt(fit.window[0]) - 1 < fit.rate < math.sqrt(fit.window[1])
    else:
        assert fit.rate == pytest.approx(target.decay_rate, rel=1e-6)
    if name not in ("sin", "shift"):
        assert fit.margin > 1


@given(rate=st.floats(1e-3, 5), scale=st.floats(1e-6, 1e6), dt=st.floats(0.01, 1), length=st.integers(30, 300))
def test_every_exponential(rate: float, scale: float, dt: float, length: int) -> None:
    t = times(length, dt)
    fit = fit_decay(t, scale * torch.exp(-rate * t))
    assert fit.decay == "exponential"
    assert fit.rate == pytest.approx(rate, rel=1e-6)
    assert fit.interval == pytest.approx((rate, rate), rel=1e-6)


@given(exponent=st.floats(0.3, 5), shift=st.floats(0.5, 20), scale=st.floats(1e-6, 1e6), length=st.integers(60, 600))
def test_every_polynomial(exponent: float, shift: float, scale: float, length: int) -> None:
    t = times(length)
    fit = fit_decay(t, scale * (t + shift) ** -exponent)
    assert fit.decay == "polynomial"
    assert fit.rate == fit.exponent == pytest.approx(exponent, rel=1e-3)
    torch.testing.assert_close(fit.curve(t), scale * (t + shift) ** -exponent, rtol=1e-3, atol=0)


def test_the_interval_holds_the_rates_of_both_halves() -> None:
    """Of an exponential that turns into a slower one: each half's; of a power: the exponent twice."""
    t = times(100)
    bent = torch.where(t < 57, torch.exp(-0.2 * t), torch.exp(-0.15 * t - 0.05 * 57))
    fit = fit_decay(t, bent)
    assert fit.decay == "exponential" and fit.window == (25.0, 89.0)  # the middle is at 57
    assert fit.interval == pytest.approx((0.15, 0.2), rel=1e-2)
    assert fit.interval[0] < fit.rate < fit.interval[1] and "0.15 to 0.2 on halves" in str(fit)
    power = fit_decay(t, (t + 3) ** -1.2)
    assert power.interval == pytest.approx((1.2, 1.2), rel=1e-3)
    assert math.isnan(fit_decay(t, torch.ones(100, dtype=torch.float64)).interval[0])


@pytest.mark.parametrize("seed", range(5))
def test_noise_leaves_the_verdict_and_lowers_the_margin(seed: int) -> None:
    t = times(200)
    noise = torch.exp(0.05 * torch.randn(200, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    for clean in (torch.exp(-0.1 * t), (t + 5) ** -1.5):
        sure, unsure = fit_decay(t, clean), fit_decay(t, clean * noise)
        assert unsure.decay == sure.decay
        assert 0.5 < unsure.margin < sure.margin
        assert unsure.rate == pytest.approx(sure.rate, rel=0.3)


@pytest.mark.parametrize("decay", ["exponential", "polynomial"])
def test_the_margin_is_the_ratio_of_what_the_fits_leave(decay: str) -> None:
    t = times(200)
    clean = torch.exp(-0.1 * t) if decay == "exponential" else (t + 5) ** -1.5
    noise = torch.exp(0.05 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    fit = fit_decay(t, clean * noise)
    log = (clean * noise).flip(0).cummax(0).values.flip(0).log()
    inside = (t >= fit.window[0]) & (t <= fit.window[1])
    centred = t[inside] - t[inside].mean()
    rate = -(centred * log[inside]).sum() / centred.square().sum()
    line, power = (log + law for law in (rate * t, fit.exponent * torch.log(t + fit.shift)))
    left = [float(rest[inside].std(correction=0)) for rest in (line, power)]
    assert fit.decay == decay == ("exponential" if left[0] < left[1] else "polynomial")
    assert fit.margin == pytest.approx(abs(math.log(left[0] / left[1])), rel=1e-9)
    assert fit.r_squared == pytest.approx(1 - min(left) ** 2 / float(log[inside].var(correction=0)), rel=1e-9)


@pytest.mark.parametrize(
    ("fall", "explained", "variance", "expected"),
    [
        (0.49, 0.89, 1.0, False),
        (0.51, 0.89, 1.0, True),
        (0.49, 0.91, 1.0, True),
        (1.99, 0.49, 1.0, False),
        (2.01, 0.49, 1.0, True),
        (1.99, 0.51, 1.0, True),
        (3.00, 1.00, 0.9e-18, False),
        (3.00, 1.00, 1.1e-18, True),
    ],
)
def test_a_fall_is_decay_if_it_is_large_or_explained(
    fall: float, explained: float, variance: float, expected: bool
) -> None:
    assert _is_decay(fall, variance, explained) is expected


def test_oscillation_and_zeros_do_not_matter() -> None:
    t = times(300)
    fit = fit_decay(t, (torch.exp(-0.05 * t) * torch.cos(t)).abs())
    assert fit.decay == "exponential" and fit.rate == pytest.approx(0.05, rel=0.02)
    even = torch.where(t % 2 == 0, (t + 3) ** -2, 0.0)
    fit = fit_decay(t, even)
    assert fit.decay == "polynomial" and fit.rate == pytest.approx(2, rel=0.05)


def test_a_sum_of_exponentials_is_judged_by_the_times_covered() -> None:
    """Rates log-uniform from 1 to 1e-6 with weights sqrt(rate): t^-0.5 until the slowest takes over."""
    rates = torch.logspace(-6, 0, 80, dtype=torch.float64)

    def memory(t: Tensor) -> Tensor:
        return (rates**0.5 * torch.exp(-rates * t[:, None])).sum(1)

    early = fit_decay(times(200), memory(times(200)))
    assert early.decay == "polynomial" and early.rate == pytest.approx(0.5, rel=0.1)
    late = torch.cat((torch.zeros(1), torch.logspace(0, 8, 400))).double()
    fit = fit_decay(late, memory(late), beta0=1e-6)
    assert fit.decay == "exponential" and fit.rate == pytest.approx(1e-6, rel=0.01)
    assert fit.within_bound


def test_underflow_and_rounding_end_the_record() -> None:
    t = times(3000)
    fit = fit_decay(t, torch.exp(-t))  # 0 from t = 746 on
    assert fit.decay == "exponential" and fit.rate == pytest.approx(1, rel=1e-9)
    noisy = torch.exp(-0.5 * t) + 1e-16 * (1 + torch.sin(t) ** 2)
    fit = fit_decay(t, noisy, floor=1e-14)
    assert fit.decay == "exponential" and fit.rate == pytest.approx(0.5, rel=1e-2)


def test_ends_and_constants() -> None:
    t = times(50)
    assert fit_decay(t, torch.zeros(50)).rate == math.inf
    compact = fit_decay(t, torch.where(t < 7, 1.0, 0.0))
    assert compact.rate == math.inf
    assert str(compact) == "ends: 0 after t = 6"
    assert fit_decay(t, torch.ones(50)).decay == "none"
    assert fit_decay(t, torch.exp(t)).decay == "none"
    assert fit_decay(t, torch.where(t > 40, torch.inf, 1.0)).decay == "none"
    assert fit_decay(t, torch.where(t > 40, torch.nan, 1.0)).decay == "none"
    assert torch.equal(fit_decay(t, torch.ones(50)).curve(t), torch.ones(50).double())


def test_the_theorems_bound() -> None:
    t = times(100)
    slow, fast = (fit_decay(t, torch.exp(-0.1 * t), beta0=beta0) for beta0 in (0.2, 0.1))
    assert not slow.within_bound and fast.within_bound
    assert not fit_decay(t, (t + 10) ** -1.1, beta0=1e-6).within_bound
    assert fit_decay(t, (t + 10) ** -1.1, beta0=-0.1).within_bound
    assert not fit_decay(t, torch.exp(-t)).within_bound  # nothing is known
    assert "beta0 0.2" in str(slow) and "exp(-0.1 t)" in str(slow)
    assert str(fit_decay(t, torch.ones(100))) == "no decay"


def test_errors() -> None:
    t = times(50)
    with pytest.raises(TypeError, match="values"):
        fit_decay(t, torch.arange(50))
    with pytest.raises(TypeError, match="times"):
        fit_decay([0.0], t)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="values"):
        fit_decay(t, torch.ones(49))
    with pytest.raises(ValueError, match="got 5"):
        fit_decay(t[:5], torch.exp(-t[:5]))
