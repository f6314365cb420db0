"""Recurrences over the rows in one vector, against a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from numba import njit

from cofm_triton.cpu.jit.compiled import OPTIONS
from cofm_triton.cpu.jit.vectors import load, store
from cofm_triton.cpu.jit.walk import walk, walk_back


def turned(y: Any, cos: Any, sin: Any, turning: bool) -> Any:
    return cos * y + sin * y.reshape(-1, 2)[:, ::-1].ravel() if turning else y


@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize(("rows", "lanes"), [(1, 4), (2, 6), (3, 2), (8, 8)])
def test_against_a_loop(rows: int, lanes: int, turning: bool, back: bool) -> None:
    random = np.random.default_rng(0)
    a, b = random.random((2, rows, lanes))
    held, cos, sin = random.random((3, lanes))
    group, row, flag, step = (0,) * (rows * lanes), (0,) * lanes, (0,) * turning, walk_back if back else walk

    def apply(a: Any, b: Any, held: Any, cos: Any, sin: Any, found: Any) -> None:
        first = load(row, held.ctypes.data, held)
        turns = load(row, cos.ctypes.data, cos), load(row, sin.ctypes.data, sin)
        given = load(group, a.ctypes.data, held), load(group, b.ctypes.data, held)
        all_rows, last = step(given[0], given[1], first, turns[0], turns[1], flag)
        store(all_rows, found.ctypes.data, held, False)
        store(last, held.ctypes.data, held, False)

    state, expected = held.copy(), np.empty((rows, lanes))
    for k in reversed(range(rows)) if back else range(rows):
        if back:
            expected[k] = state
            state = turned(a[k] * state + b[k], cos, sin, turning)
        else:
            state = a[k] * turned(state, cos, sin, turning) + b[k]
            expected[k] = state
    found = np.empty((rows, lanes))
    njit(**OPTIONS)(apply)(a, b, held, cos, sin, found)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    np.testing.assert_allclose(held, state, rtol=1e-14)
