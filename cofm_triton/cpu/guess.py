"""How many steps a recurrence takes to forget where it started: the length of a guess."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

# Length of a guess, in multiples of the steps in which a difference falls below rounding. Linear recurrences need a
# little more than one. Nonlinear steps may not contract (where act saturates, or relu is 0), so they warm up longer.
LINEAR_MARGIN, MARGIN = 1.5, 4
# Cutting pays if the steps that are run have this many times the steps of a guess.
MIN_PART = 4


def guess_steps(factors: Any, margin: float = MARGIN) -> int | None:
    """Steps of a guess; None if differences between states do not shrink.

    Args:
        factors: (D,) by how much a step multiplies it, in the state's dtype.
        margin: one of the two above.

    Example:
        >>> guess_steps(np.float32([0.1, -0.5])), guess_steps(np.float32([1.0]))
        (92, None)
    """
    largest = float(np.abs(factors).max())
    if not largest < 1:  # NaN included
        return None
    return math.ceil(margin * math.log(np.finfo(factors.dtype).eps) / math.log(max(largest, 0.5)))
