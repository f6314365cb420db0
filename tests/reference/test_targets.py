import math

import pytest
import torch

from cofm_triton.reference import targets


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("exp", {0.0: 1.0, 2.5: math.exp(-2.5)}),
        ("pol", {0.0: 1.0, 10.0: 0.46651649576840371, 90.0: 0.07943282347242814}),
        ("shift", {8.0: 0.0, 9.0: 0.0, 9.5: 1.0, 10.0: 1.0, 11.0: 0.0, 12.0: 0.0}),
        ("twoparts", {0.0: 1.0 + math.exp(-81), 9.0: 1.0 + math.exp(-9)}),
        # Ai(-6), Ai(-2), Ai(0), Ai(5)
        (
            "airy",
            {
                0.0: -0.32914517362982321,
                4.0: 0.22740742820168557,
                6.0: 0.35502805388781724,
                11.0: 1.0834442813607442e-4,
            },
        ),
        ("sin", {0.0: 0.0, 1.0: math.sin(1.0), 50.0: math.sin(50.0)}),
    ],
)
def test_impulse_responses(name: str, values: dict[float, float]) -> None:
    rho = targets.rho(name, torch.tensor(list(values), dtype=torch.float64))
    assert rho.tolist() == pytest.approx(list(values.values()), rel=1e-14)


def test_every_target_is_covered_and_shapes_are_kept() -> None:
    assert list(targets.TARGETS) == ["exp", "pol", "shift", "twoparts", "airy", "sin"]
    for name in targets.TARGETS:
        rho = targets.rho(name, torch.zeros(2, 3))
        assert rho.shape == (2, 3)
        assert rho.dtype == torch.float32


def test_unknown_target() -> None:
    with pytest.raises(ValueError, match="'filter'"):
        targets.generate("filter", 1, 1)


@pytest.mark.parametrize("name", targets.TARGETS)
@pytest.mark.parametrize("dt", [0.1, 1.0])
def test_outputs_are_the_discrete_functional(name: str, dt: float) -> None:
    inputs, outputs = targets.generate(name, 2, 15, dt=dt, input_size=2, seed=3)
    for k in range(15):
        lags = torch.arange(k + 1, dtype=torch.float64)
        rho = targets.rho(name, lags * dt)
        expected = (rho[:, None] * inputs[:, : k + 1].flip(1)).sum(1)
        torch.testing.assert_close(outputs[:, k], expected, rtol=1e-13, atol=1e-13)


def test_inputs_are_scaled_noise_and_a_function_of_the_seed() -> None:
    inputs, outputs = targets.generate("exp", 400, 50, dt=0.5)
    # The deviation of 20,000 draws is known to 1 / sqrt(40,000); five of those are allowed.
    assert inputs.std().item() == pytest.approx(0.5, rel=0.025)
    again, outputs_again = targets.generate("exp", 400, 50, dt=0.5)
    assert torch.equal(inputs, again) and torch.equal(outputs, outputs_again)
    assert not torch.equal(inputs, targets.generate("exp", 400, 50, dt=0.5, seed=1)[0])
    summed, _ = targets.generate("exp", 400, 50, dt=0.5, cumulative=True)
    assert torch.equal(summed, inputs.cumsum(1))


def test_kernel_samples_at_multiples_of_dt() -> None:
    expected = torch.tensor([1.0, 1.05**-1.1, 1.1**-1.1], dtype=torch.float64)
    torch.testing.assert_close(targets.kernel("pol", 3, 0.5), expected)
