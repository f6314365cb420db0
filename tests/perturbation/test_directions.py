"""Radii and directions: the paper's grid, norms per tensor, independence of how they are drawn."""

import hashlib
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.perturbation.directions import (
    _log,
    _turn,
    norm,
    paper_radii,
    parameter_shapes,
    random_direction,
    slow_direction,
    slower_sign,
)
from cofm_triton.step.parameterization import PARAMETERIZATIONS, parameterization

SHAPES = {
    "a": torch.Size([7]),
    "b": torch.Size([5, 1]),
    "c": torch.Size([1, 9]),
    "d": torch.Size([4, 3]),
    "e": torch.Size([1]),
}


def test_paper_radii() -> None:
    radii = paper_radii()
    assert radii.shape == (22,) and radii.dtype == torch.float64
    assert radii[0] == 0 and radii[1] == 0.001 and radii[2] == 0.0014142135623730952
    assert radii[21].item() == pytest.approx(1.024, rel=1e-15)


def test_inf_norm_of_every_tensor_is_one() -> None:
    for index in range(20):
        for value in random_direction(SHAPES, index, seed=3).values():
            assert value.abs().max().item() == pytest.approx(1, abs=1e-15)


def test_l2_norm_of_every_tensor_is_one_and_spectral_for_matrices() -> None:
    direction = random_direction(SHAPES, 0, ball="l2")
    for name in "abce":
        assert direction[name].norm().item() == pytest.approx(1, abs=1e-14)
    assert torch.linalg.svdvals(direction["d"])[0].item() == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("ball", ["inf", "l2"])
def test_norm_of_a_batch_is_the_norm_of_each(ball: str) -> None:
    for shape in SHAPES.values():
        batch = torch.randn(6, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = torch.stack([norm(one, ball) for one in batch])
        torch.testing.assert_close(norm(batch, ball, batch_dims=1), expected)


def test_a_direction_depends_on_seed_name_and_index_alone() -> None:
    whole = random_direction(SHAPES, 5, seed=11)
    alone = random_direction({"d": SHAPES["d"]}, 5, seed=11)
    assert torch.equal(whole["d"], alone["d"])
    assert not torch.equal(whole["d"], random_direction(SHAPES, 6, seed=11)["d"])
    assert not torch.equal(whole["d"], random_direction(SHAPES, 5, seed=12)["d"])
    renamed = random_direction({"x": SHAPES["d"]}, 5, seed=11)
    assert not torch.equal(whole["d"], renamed["x"])


def test_random_numbers_are_normal() -> None:
    """Mean, variance and fourth moment of 2e5 numbers within five standard errors."""
    values = random_direction({"w": torch.Size([200_000])}, 0, ball="l2")["w"]
    values = values / values.square().mean().sqrt()
    assert abs(values.mean().item()) < 5 / 200_000**0.5
    # The variance of x^4 is 96, and normalising by the sample's variance only lowers it.
    assert abs((values**4).mean().item() - 3) < 5 * (96 / 200_000) ** 0.5
    assert abs((values[:-1] * values[1:]).mean().item()) < 5 / 200_000**0.5


def test_every_number_is_finite_even_for_the_smallest_uniform() -> None:
    for index in range(50):
        assert random_direction({"w": torch.Size([4097])}, index)["w"].isfinite().all()


@pytest.mark.parametrize("name", PARAMETERIZATIONS)
def test_the_slow_sign_lowers_the_rate(name: str) -> None:
    kind = parameterization(name)
    raw = torch.tensor([-3.0, -0.4, -1e-4, 1e-4, 0.3, 2.5], dtype=torch.float64)
    moved = kind.rate(raw + 0.2 * slower_sign(name, raw))
    slope = kind.derivative(raw)
    assert bool((moved[slope != 0] < kind.rate(raw)[slope != 0]).all())
    assert bool((moved <= kind.rate(raw)).all())


@pytest.mark.parametrize(("ball", "entry"), [("inf", 1.0), ("l2", 0.5)])
def test_slow_direction_moves_rates_only(ball: str, entry: float) -> None:
    model = RNNFunctional(2, 4, parameterization="exp")
    direction = slow_direction(model, ball=ball)
    assert list(direction) == ["rnn.rate_l0"]
    assert torch.equal(direction["rnn.rate_l0"], torch.full((4,), -entry, dtype=torch.float64))


def test_slow_direction_finds_nested_layers() -> None:
    model = nn.Sequential(nn.Linear(1, 1), RNNFunctional(1, 3, parameterization="inverse"))
    with torch.no_grad():
        model.get_parameter("1.rnn.rate_l0").copy_(torch.tensor([-1.0, 0.5, 2.0]))
    direction: dict[str, Tensor] = slow_direction(model)
    assert direction["1.rnn.rate_l0"].tolist() == [-1.0, 1.0, 1.0]


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"ball must be one of .* got 'l1'"):
        random_direction(SHAPES, 0, ball="l1")
    with pytest.raises(ValueError, match="ball"):
        slow_direction(RNNFunctional(1, 2), ball="2")
    with pytest.raises(ValueError, match="seed must be"):
        random_direction(SHAPES, 0, seed=-1)
    half: dict[str, Any] = {"seed": 1.5}
    with pytest.raises(TypeError, match="seed must be an int"):
        random_direction(SHAPES, 0, **half)
    with pytest.raises(ValueError, match="index must be"):
        random_direction(SHAPES, 2**32)
    with pytest.raises(ValueError, match="model must hold a cofm recurrent layer"):
        slow_direction(nn.RNN(1, 2))


def test_parameter_shapes_follow_named_parameters() -> None:
    assert parameter_shapes(nn.Linear(3, 2)) == {"weight": torch.Size([2, 3]), "bias": torch.Size([2])}


def test_the_bits_are_the_same_everywhere() -> None:
    """The digest of one direction, drawn by another processor and another numpy than those of this run."""
    direction = random_direction({"w": torch.Size([1001])}, 3, seed=5)
    digest = hashlib.sha256(direction["w"].numpy().astype("<f8").tobytes()).hexdigest()
    assert digest == "69f0c3affce02d421348461a7ac441cf34de8ac28537c2395e67c348e78a2ba1"


def test_logarithms_and_turns_are_exact_to_a_few_roundings() -> None:
    """Against the C library, next to their zeros and ends too."""
    eps = 2.0**-52
    some = np.random.Generator(np.random.Philox(0)).random(20_000)
    u = np.concatenate([some, [2.0**-53, 0.125, 0.25, 0.5, math.sqrt(0.5), 1 - 2.0**-53, 1.0]])
    np.testing.assert_allclose(_log(u), np.log(u), rtol=4 * eps, atol=0)
    cosine, sine = _turn(u)
    # 2 pi u is rounded before the C library takes its cosine.
    np.testing.assert_allclose(cosine, np.cos(2 * np.pi * u), rtol=0, atol=8 * eps)
    np.testing.assert_allclose(sine, np.sin(2 * np.pi * u), rtol=0, atol=8 * eps)
