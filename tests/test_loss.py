"""The temporally weighted loss against its numbers, its definition and the reference."""

import math
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from cofm_triton import reference
from cofm_triton.loss import memory_bias, rescaled_weights, temporal_weights, temporally_weighted_mse


def test_weights_in_numbers() -> None:
    v = temporal_weights(100)
    assert v[0].item() == pytest.approx(2.9555194325402693e-4, rel=1e-12)
    assert v[99].item() == pytest.approx(2.955519432540269, rel=1e-12)
    assert v.square().mean().item() == pytest.approx(1.7909856657307524, rel=1e-12)
    tail = (v.square() / 100).flip(0).cumsum(0).flip(0)
    assert tail[50].item() == pytest.approx(1.733625209257393, rel=1e-12)
    assert tail[99].item() == pytest.approx(0.08735095116123155, rel=1e-12)


@pytest.mark.parametrize("length", [0, 1, 2, 33, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_have_mean_one(length: int, dtype: torch.dtype) -> None:
    v = temporal_weights(length, dtype=dtype)
    assert v.shape == (length,)
    assert v.dtype == dtype
    if length:
        # Each weight is rounded once: the mean of the relative errors is below one eps.
        assert v.double().mean().item() == pytest.approx(1, rel=torch.finfo(dtype).eps)


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 33, 2), (2, 100, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_is_the_definition(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    y_hat, y = torch.randn(2, *shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
    loss = temporally_weighted_mse(y_hat, y)
    expected = reference.temporally_weighted_mse(y_hat.double(), y.double())
    assert loss.dtype == dtype
    # Terms are positive: five roundings each, and a pairwise sum.
    assert loss.item() == pytest.approx(expected.item(), rel=20 * torch.finfo(dtype).eps)


def test_the_squared_error_of_step_k_counts_k_plus_one_to_the_fourth() -> None:
    y = torch.zeros(1, 10, 1, dtype=torch.float64)
    losses = [temporally_weighted_mse(y + e[:, None], y).item() for e in torch.eye(10).double()]
    assert [value / losses[0] for value in losses] == pytest.approx([k**4 for k in range(1, 11)])


def test_gradient() -> None:
    y_hat = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(temporally_weighted_mse, (y_hat, torch.ones_like(y_hat)))


def test_sixteen_bit_errors_do_not_overflow() -> None:
    y = torch.zeros(1, 4, 1, dtype=torch.float16)
    loss = temporally_weighted_mse(y + 1000, y)
    assert loss.dtype == torch.float32
    assert loss.isfinite()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_errors_show(value: float) -> None:
    y = torch.zeros(1, 4, 1)
    assert not temporally_weighted_mse(torch.full_like(y, value), y).isfinite()


@pytest.mark.parametrize(
    ("y_hat", "y", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            torch.zeros(2, 3),
            ValueError,
            r"y_hat must have the shape \(N, T, p\)",
        ),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3), ValueError, r"y must have the shape \(N, T, p\)"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 4, 1), ValueError, r"\(2, 4, 1\), got \(2, 3, 1\)"),
        (torch.zeros(2, 3, 1), torch.zeros(2, 3, 1).double(), TypeError, "dtype of y"),
        (torch.zeros(2, 3, 1).int(), torch.zeros(2, 3, 1), TypeError, "y_hat must have a real"),
        (torch.zeros(2, 3, 1), None, TypeError, "y must be a torch.Tensor, got NoneType"),
        (torch.zeros(2, 3, 1, device="meta"), torch.zeros(2, 3, 1), ValueError, "device of y"),
    ],
)
def test_bad_arguments(y_hat: Any, y: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        temporally_weighted_mse(y_hat, y)


@pytest.mark.parametrize(("length", "error"), [(-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_bad_length(length: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="length must be"):
        temporal_weights(length)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32"])
def test_bad_dtype(dtype: Any) -> None:
    with pytest.raises(TypeError, match="dtype must be a real floating-point"):
        temporal_weights(5, dtype=dtype)


def test_loss_compiles_once_for_all_lengths() -> None:
    counter = CompileCounter()
    compiled = torch.compile(temporally_weighted_mse, backend=counter, fullgraph=True, dynamic=True)
    for length in (5, 8, 13):
        y_hat, y = torch.randn(2, 3, length, 2)
        assert torch.equal(compiled(y_hat, y), temporally_weighted_mse(y_hat, y))
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("options", "weight"),
    [
        ({}, lambda k: 1.0),
        ({"power": 4}, lambda k: (k + 1) ** 4),
        ({"rate": 0.3}, lambda k: math.exp(0.3 * k)),
        ({"power": 1.5, "rate": 0.1}, lambda k: (k + 1) ** 1.5 * math.exp(0.1 * k)),
        ({"power": math.inf}, lambda k: float(k == 6)),
        ({"power": 1e6, "rate": 1e6}, lambda k: float(k == 6)),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rescaled_weights(options: dict[str, Any], weight: Any, dtype: torch.dtype) -> None:
    """And a kernel that is off at lag s counts, on white inputs, what `memory_bias` says."""
    plain = torch.tensor([weight(k) for k in range(7)], dtype=torch.float64)
    w = rescaled_weights(7, dtype=dtype, **options)
    torch.testing.assert_close(w, (plain / plain.sum()).to(dtype), rtol=20 * torch.finfo(dtype).eps, atol=0)
    off = [torch.eye(7, dtype=torch.float64).roll(s, 1).triu(s) for s in range(7)]  # each input comes out s steps later
    counts = torch.stack([(plain * y**2).sum() for y in off])
    torch.testing.assert_close(memory_bias(w), (counts / counts[0]).to(dtype), rtol=50 * torch.finfo(dtype).eps, atol=0)


def test_the_paper_s_weights_are_one_of_the_family() -> None:
    squares = temporal_weights(50).square()
    torch.testing.assert_close(squares / squares.sum(), rescaled_weights(50, power=4))
    half = (memory_bias(squares) >= 0.5).sum().item() / 50
    assert half == pytest.approx(2 ** (-1 / 5), abs=0.5 / 50)


NO_TENSOR: Any = [1.0]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: rescaled_weights(0), ValueError, "length must be at least 1"),
        (lambda: rescaled_weights(3, power=-1), ValueError, "power must be >= 0"),
        (lambda: rescaled_weights(3, power=math.nan), ValueError, "power must be >= 0"),
        (lambda: rescaled_weights(3, rate=math.inf), ValueError, "rate must be >= 0 and finite"),
        (lambda: rescaled_weights(3, dtype=torch.int64), TypeError, "dtype must be a real floating-point"),
        (lambda: memory_bias(NO_TENSOR), TypeError, "weights must be a real floating-point tensor, got list"),
        (lambda: memory_bias(torch.ones(2, 2)), ValueError, "weights must have the shape"),
        (lambda: memory_bias(torch.ones(0)), ValueError, "weights must have the shape"),
        (lambda: memory_bias(torch.zeros(2)), ValueError, "weights must be finite, none negative and not all zero"),
        (lambda: memory_bias(torch.tensor([1.0, -0.1])), ValueError, "weights must be finite"),
        (lambda: memory_bias(torch.tensor([1.0, math.nan])), ValueError, "weights must be finite"),
    ],
)
def test_errors_of_weights(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
