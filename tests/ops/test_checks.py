"""The argument checks one by one; how the functions use them is tested with the functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cofm_triton.ops.checks import (
    check_companion,
    check_nonlinearity,
    check_per_channel,
    check_per_pair,
    check_resets,
    check_seq_starts,
    check_sequence,
    check_states,
    check_step,
)
from cofm_triton.ops.dtypes import DTYPES, state_dtype
from cofm_triton.step.activations import NONLINEARITIES

X = torch.zeros(1, 5, 3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_sequences_of_every_dtype(dtype: torch.dtype) -> None:
    check_sequence("x", X.to(dtype), allow_complex=True)
    if dtype.is_complex:
        with pytest.raises(TypeError, match=rf"x must have one of the dtypes torch\.float16.*got {dtype}"):
            check_sequence("x", X.to(dtype), allow_complex=False)


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3), (0, 0, 1)])
def test_empty_sequences_are_fine(shape: tuple[int, ...]) -> None:
    check_sequence("x", torch.zeros(shape), allow_complex=False)


@pytest.mark.parametrize("shape", [(), (3,), (5, 3), (1, 5, 0), (1, 1, 5, 3)])
def test_other_shapes_are_not(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input must have shape \(B, T, D\) with D >= 1, got \("):
        check_sequence("input", torch.zeros(shape), allow_complex=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_companions_have_the_dtype_of_x_or_of_the_state(dtype: torch.dtype) -> None:
    x = X.to(dtype)
    accepted = {dtype, state_dtype(dtype)}
    for other in (*DTYPES, torch.int64):
        if other in accepted:
            check_companion("decay", torch.zeros(3, dtype=other), x)
        else:
            with pytest.raises(TypeError, match=rf"decay must have the dtype of x or of its state, .*got {other}"):
                check_companion("decay", torch.zeros(3, dtype=other), x)


def test_per_channel() -> None:
    check_per_channel("rate", torch.zeros(3), X)
    for shape in ((), (1,), (4,), (1, 3)):
        with pytest.raises(ValueError, match=r"rate must have shape \(D,\) = \(3,\), got \("):
            check_per_channel("rate", torch.zeros(shape), X)


def test_per_pair() -> None:
    x = torch.zeros(2, 5, 6)
    check_per_pair("rate", torch.zeros(3), x)
    with pytest.raises(ValueError, match=r"rate must have shape \(D // 2,\) = \(3,\), one value per pair, got \(6,\)"):
        check_per_pair("rate", torch.zeros(6), x)
    with pytest.raises(ValueError, match=r"even number of channels D .*got \(2, 5, 5\)"):
        check_per_pair("rate", torch.zeros(2), x[..., :5])


@pytest.mark.parametrize("starts", [None, torch.tensor([0, 2])])
def test_states(starts: torch.Tensor | None) -> None:
    rows, letter = (1, "B") if starts is None else (2, "S")
    check_states("h0", None, X, starts)
    check_states("h0", torch.zeros(rows, 3), X, starts)
    for shape in ((3,), (rows + 1, 3), (rows, 1), (rows, 3, 1)):
        with pytest.raises(ValueError, match=rf"h0 must have shape \({letter}, D\) = \({rows}, 3\), got \("):
            check_states("h0", torch.zeros(shape), X, starts)


@pytest.mark.parametrize("values", [[0], [0, 0], [0, 5], [0, 5, 5], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_sequence_starts(values: list[int], dtype: torch.dtype) -> None:
    starts = torch.tensor(values, dtype=dtype)
    check_seq_starts(starts, X)

    def inside(x: torch.Tensor) -> torch.Tensor:
        check_seq_starts(starts, x)
        return x.sum()

    torch.func.grad(inside)(X)


@pytest.mark.parametrize("values", [[1], [-1], [0, -1], [0, 3, 2], [0, 6], [5, 0]])
def test_sequence_starts_out_of_order(values: list[int]) -> None:
    with pytest.raises(ValueError, match=r"seq_starts must start with 0 and not decrease up to T = 5, got \["):
        check_seq_starts(torch.tensor(values), X)


def test_sequence_starts_elsewhere() -> None:
    with pytest.raises(ValueError, match="seq_starts must be on the device of x, cpu, got meta"):
        check_seq_starts(torch.zeros(1, dtype=torch.int64, device="meta"), X)
    # On another device the values are not looked at, which would wait for it.
    check_seq_starts(torch.zeros(1, dtype=torch.int64, device="meta"), X.to("meta"))


def test_resets() -> None:
    check_resets(None, "zero", X)
    check_resets(torch.ones(1, 5, dtype=torch.bool), "h0", X)
    with pytest.raises(ValueError, match=r"reset_to must be one of \('h0', 'zero'\), got 'mean'"):
        check_resets(None, "mean", X)
    with pytest.raises(TypeError, match=r"resets must be a torch\.Tensor, got list"):
        check_resets([True] * 5, "h0", X)
    with pytest.raises(TypeError, match=r"resets must have dtype torch\.bool.*got torch\.float32"):
        check_resets(torch.ones(1, 5), "h0", X)
    with pytest.raises(ValueError, match=r"resets must have shape \(B, T\) = \(1, 5\), got \(5,\)"):
        check_resets(torch.ones(5, dtype=torch.bool), "h0", X)
    with pytest.raises(ValueError, match="resets must be on the device of x, cpu, got meta"):
        check_resets(torch.ones(1, 5, dtype=torch.bool, device="meta"), "h0", X)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_nonlinearities(name: str) -> None:
    check_nonlinearity(name)


@pytest.mark.parametrize("bad", ["Tanh", "", None, torch.tanh])
def test_unknown_nonlinearities(bad: Any) -> None:
    with pytest.raises(ValueError, match=r"nonlinearity must be one of \('linear'.*got "):
        check_nonlinearity(bad)


@pytest.mark.parametrize("dt", [1, 0.5, 1e-300, np.float32(0.1), torch.ones(())])
def test_steps(dt: float) -> None:
    assert type(check_step(dt)) is float and check_step(dt) == dt


@pytest.mark.parametrize("dt", [0, -1.0, float("inf"), float("nan")])
def test_steps_out_of_range(dt: float) -> None:
    with pytest.raises(ValueError, match="dt must be finite and positive, got "):
        check_step(dt)


@pytest.mark.parametrize("dt", [None, "1", True, torch.ones(1)])
def test_steps_of_other_types(dt: Any) -> None:
    with pytest.raises(TypeError, match="dt must be a number, got "):
        check_step(dt)
