import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._higher_order_ops.associative_scan import associative_scan

from cofm_triton.reference import linear_scan

DTYPES = [torch.float64, torch.complex128]
SHAPES = [(1, 0, 1), (2, 0, 3), (1, 1, 1), (2, 2, 3), (3, 7, 40), (2, 33, 1), (0, 4, 2)]


def random(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def contraction(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    decay = random(*shape, dtype=dtype, seed=seed)
    return decay / (0.3 + decay.abs())  # |decay| may exceed neither 1 nor the reach of round-off


def by_associative_scan(x: Tensor, decay: Tensor, h0: Tensor, reverse: bool = False) -> Tensor:
    """Torch's generic parallel scan over the pairs (decay, x), h0 folded into the first step."""
    start = x.shape[1] - 1 if reverse else 0
    first = (torch.arange(x.shape[1]) == start)[:, None]
    decay = decay.expand(x.shape)
    x = x + torch.where(first, decay * h0[:, None], torch.zeros_like(x))

    def combine(left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return left[0] * right[0], right[0] * left[1] + right[1]

    pairs = (decay.contiguous(), x.contiguous())
    result: tuple[Tensor, Tensor] = associative_scan(  # type: ignore[assignment]
        combine, pairs, dim=1, reverse=reverse, combine_mode="generic"
    )
    return result[1]


def assert_close(actual: Tensor, expected: Tensor, length: int) -> None:
    """Each step rounds twice: the error grows at most like the length times the largest state."""
    scale = float(expected.detach().abs().max()) if expected.numel() else 0.0
    atol = 4 * (length + 1) * torch.finfo(actual.dtype).eps * scale
    torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_constant_decay_is_a_convolution(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    batch, length, size = shape
    x, h0 = random(*shape, dtype=dtype), random(batch, size, dtype=dtype, seed=2)
    decay = contraction(size, dtype=dtype) * 0.9
    h, h_last = linear_scan(x, decay, h0)
    expected = torch.zeros_like(x)
    for t in range(length):
        powers = decay ** torch.arange(t, -1, -1)[:, None]
        expected[:, t] = (powers * x[:, : t + 1]).sum(1) + decay ** (t + 1) * h0
    assert_close(h, expected, length)
    assert torch.equal(h_last, h[:, -1] if length else h0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("decay_shape", [(3,), (2, 9, 3), (9, 1), (2, 1, 1), ()])
def test_value_and_gradients_agree_with_associative_scan(
    decay_shape: tuple[int, ...], reverse: bool, dtype: torch.dtype
) -> None:
    x = random(2, 9, 3, dtype=dtype).requires_grad_()
    decay = contraction(*decay_shape, dtype=dtype).requires_grad_()
    h0 = random(2, 3, dtype=dtype, seed=2).requires_grad_()
    h, h_last = linear_scan(x, decay, h0, reverse=reverse)
    oracle = by_associative_scan(x, decay, h0, reverse)
    assert_close(h, oracle, 9)
    assert torch.equal(h_last, h[:, 0 if reverse else -1])
    weights = random(2, 9, 3, dtype=dtype, seed=3)
    ours = torch.autograd.grad((h * weights).real.sum(), (x, decay, h0))
    theirs = torch.autograd.grad((oracle * weights).real.sum(), (x, decay, h0))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 9 * 9)


def test_agrees_with_associative_scan_over_a_long_sequence() -> None:
    x, decay, h0 = random(1, 300, 2), contraction(1, 300, 2), random(1, 2, seed=2)
    assert_close(linear_scan(x, decay, h0)[0], by_associative_scan(x, decay, h0), 300)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("decay_shape", [(2,), (1, 4, 2)])
def test_first_and_second_derivatives(decay_shape: tuple[int, ...], reverse: bool, dtype: torch.dtype) -> None:
    arguments = (
        random(1, 4, 2, dtype=dtype).requires_grad_(),
        contraction(*decay_shape, dtype=dtype).requires_grad_(),
        random(1, 2, dtype=dtype, seed=2).requires_grad_(),
    )

    def scan(x: Tensor, decay: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return linear_scan(x, decay, h0, reverse=reverse)

    assert torch.autograd.gradcheck(scan, arguments)
    assert torch.autograd.gradgradcheck(scan, arguments)


def test_vmap_and_jvp() -> None:
    x, decay, h0 = random(5, 2, 6, 3), contraction(5, 3), random(5, 2, 3, seed=2)
    batched, _ = torch.func.vmap(linear_scan)(x, decay, h0)
    for i in range(5):
        torch.testing.assert_close(batched[i], linear_scan(x[i], decay[i], h0[i])[0])
    # The scan is linear in (x, h0): its derivative there is itself.
    dx, dh0 = random(2, 6, 3, seed=4), random(2, 3, seed=5)
    _, tangent = torch.func.jvp(lambda x, h0: linear_scan(x, decay[0], h0)[0], (x[0], h0[0]), (dx, dh0))  # type: ignore[misc]
    torch.testing.assert_close(tangent, linear_scan(dx, decay[0], dh0)[0])


@pytest.mark.parametrize("gated", [False, True])
def test_reverse_is_the_flipped_scan(gated: bool) -> None:
    x, h0 = random(2, 7, 3), random(2, 3, seed=2)
    decay = contraction(2, 7, 3) if gated else contraction(3)
    h, h_last = linear_scan(x, decay, h0, reverse=True)
    flipped, last = linear_scan(x.flip(1), decay.flip(1) if gated else decay, h0)
    assert torch.equal(h, flipped.flip(1))
    assert torch.equal(h_last, last)


@given(length=st.integers(0, 12), cut=st.integers(0, 12), reverse=st.booleans())
def test_the_state_is_all_that_passes_a_cut(length: int, cut: int, reverse: bool) -> None:
    cut = min(cut, length)
    x, decay, h0 = random(2, length, 3), contraction(2, length, 3), random(2, 3, seed=2)
    parts = [slice(0, cut), slice(cut, length)]
    state, pieces = h0, []
    for part in reversed(parts) if reverse else parts:
        h, state = linear_scan(x[:, part], decay[:, part], state, reverse=reverse)
        pieces.append(h)
    whole, last = linear_scan(x, decay, h0, reverse=reverse)
    assert torch.equal(torch.cat(pieces[::-1] if reverse else pieces, 1), whole)
    assert torch.equal(state, last)


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("starts", [[0], [0, 4], [0, 1, 1, 6, 9]])
def test_packed_sequences_do_not_meet(starts: list[int], reverse: bool, gated: bool) -> None:
    x, h0 = random(1, 9, 2).requires_grad_(), random(len(starts), 2, seed=2).requires_grad_()
    decay = contraction(1, 9, 2) if gated else contraction(2)
    h, h_last = linear_scan(x, decay, h0, reverse=reverse, seq_starts=torch.tensor(starts))
    assert h.shape == x.shape
    for i, (a, b) in enumerate(zip(starts, [*starts[1:], 9], strict=True)):
        part = decay[:, a:b] if gated else decay
        alone, last = linear_scan(x[:, a:b], part, h0[i : i + 1], reverse=reverse)
        assert torch.equal(h[:, a:b], alone)
        assert torch.equal(h_last[i : i + 1], last)
        (leak,) = torch.autograd.grad(h[:, a:b].sum() + h_last[i].sum(), x, retain_graph=True)
        assert not leak[:, :a].any() and not leak[:, b:].any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_input_has_a_float32_state(dtype: torch.dtype) -> None:
    # A bfloat16 state of ones stalls at 256, a float16 one at 2048.
    h, h_last = linear_scan(torch.ones(1, 3000, 1, dtype=dtype), torch.ones(1, dtype=dtype))
    assert h.dtype == h_last.dtype == dtype
    assert torch.equal(h.flatten(), torch.arange(1, 3001).to(dtype))


def test_empty_time_keeps_the_graph() -> None:
    x = torch.zeros(2, 0, 3, requires_grad=True)
    decay, h0 = torch.ones(3, requires_grad=True), torch.ones(2, 3, requires_grad=True)
    h, h_last = linear_scan(x, decay, h0)
    assert torch.equal(h_last, h0)
    gradients = torch.autograd.grad(h.sum() + h_last.sum(), (x, decay, h0))
    assert [g.shape for g in gradients] == [x.shape, decay.shape, h0.shape]
    assert torch.equal(gradients[2], torch.ones(2, 3))


def test_any_strides() -> None:
    x, decay = random(3, 2, 8), contraction(3)
    strided = x.permute(1, 2, 0)[:, ::2]
    expected = linear_scan(strided.contiguous(), decay)[0]
    assert torch.equal(linear_scan(strided, decay)[0], expected)
    expanded = random(1, 1, 3).expand(2, 5, 3)
    assert torch.equal(linear_scan(expanded, decay)[0], linear_scan(expanded.contiguous(), decay)[0])


def test_non_finite_values_follow_the_recurrence() -> None:
    x = torch.tensor([1.0, torch.inf, 1.0, torch.nan, 1.0])[None, :, None]
    h = linear_scan(x, torch.tensor([0.5]))[0].flatten()
    assert torch.equal(h[:3], torch.tensor([1.0, torch.inf, torch.inf]))
    assert h[3:].isnan().all()
    forgetting = linear_scan(x, torch.tensor([0.0]))[0].flatten()
    assert forgetting[2:].isnan().all()  # 0 * inf


def test_slow_decay_over_a_long_sequence() -> None:
    # The step rounds decay once, which shifts a rate of 1e-5 by 1e-11 of itself.
    decay, length = torch.tensor([1 - 1e-5], dtype=torch.float64), 100_000
    h = linear_scan(torch.ones(1, length, 1, dtype=torch.float64), decay)[0].flatten()
    rate = -torch.log(decay)
    steps = torch.arange(1, length + 1, dtype=torch.float64)
    torch.testing.assert_close(h, -torch.expm1(-rate * steps) / (1 - decay), rtol=1e-10, atol=0)


@pytest.mark.parametrize("shape", [(3,), (9, 1), (2, 9, 3)], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_pairs_of_real_channels_are_complex_ones(reverse: bool, shape: tuple[int, ...]) -> None:
    x, h0 = random(2, 9, 6).requires_grad_(), random(2, 6, seed=2).requires_grad_()
    decay = contraction(*shape, dtype=torch.complex128).requires_grad_()
    h, h_last = linear_scan(x, decay, h0, reverse=reverse)
    z, z0 = (torch.view_as_complex(tensor.unflatten(-1, (-1, 2))) for tensor in (x, h0))
    oracle = torch.view_as_real(by_associative_scan(z, decay, z0, reverse)).flatten(-2)
    assert h.dtype == h_last.dtype == torch.float64
    assert_close(h, oracle, 9)
    assert torch.equal(h_last, h[:, 0 if reverse else -1])
    weights = random(2, 9, 6, seed=3)
    ours, theirs = (torch.autograd.grad((r * weights).sum(), (x, decay, h0)) for r in (h, oracle))
    for a, b in zip(ours, theirs, strict=True):
        assert_close(a, b, 9 * 9)


def test_a_quarter_turn_a_step() -> None:
    x = torch.zeros(1, 4, 2, dtype=torch.bfloat16)
    x[0, 0, 0] = 1
    h, h_last = linear_scan(x, torch.tensor([1j]))
    assert h.dtype == h_last.dtype == torch.bfloat16
    assert h[0].tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]


def test_empty_time_of_pairs() -> None:
    h, h_last = linear_scan(torch.zeros(2, 0, 4), torch.tensor([1j, 1]), torch.ones(2, 4))
    assert h.shape == (2, 0, 4) and torch.equal(h_last, torch.ones(2, 4))
