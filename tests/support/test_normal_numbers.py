"""Normal numbers that are the same everywhere: those of each index alone, right to a few roundings."""

import math

import numpy as np

from cofm_triton.support.normal_numbers import _log, _turn, normal_numbers


def test_an_index_has_its_own_numbers() -> None:
    """Whatever others are drawn with it; of an odd count, all but the last of its pairs."""
    rows = normal_numbers(3, "w", [0, 7, 2], 5)
    assert rows.shape == (3, 5)
    np.testing.assert_array_equal(normal_numbers(3, "w", [7], 6)[:, :5], rows[1:2])
    assert not np.array_equal(normal_numbers(4, "w", [7], 5), rows[1:2])
    assert not np.array_equal(normal_numbers(3, "v", [7], 5), rows[1:2])


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
