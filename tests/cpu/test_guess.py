"""Steps of a guess: those in which a difference between two states falls below rounding, and some more."""

import numpy as np

from cofm_triton.cpu.guess import LINEAR_MARGIN, MARGIN, guess_steps


def test_steps_of_a_guess() -> None:
    assert guess_steps(np.array([0.0], np.float32)) == MARGIN * 23
    assert guess_steps(np.array([0.5, -0.25], np.float64)) == MARGIN * 52
    for factors in ([1.0], [-1.5], [0.5, np.nan], [np.inf]):
        assert guess_steps(np.array(factors, np.float32)) is None
    assert guess_steps(np.array([0.5j], np.complex64)) == MARGIN * 23
    assert guess_steps(np.array([0.5], np.float32), LINEAR_MARGIN) == 35
