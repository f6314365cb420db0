"""Adjoints of long sequences of few channels, four steps at a time: within the bounds of any order of the sums."""

from __future__ import annotations

import pytest
import torch
from lookahead_cases import DECAYS, LENGTH, LENGTHS
from torch import Tensor
from watching import watch

pytest.importorskip("numba")

import cofm_triton as cofm
from cofm_triton.cpu.jit import linear_scan
from cofm_triton.cpu.jit.lookahead import MAX_PARTS, SMALLEST, STEPS
from cofm_triton.evidence.tolerance import linear_scan_bounds

pytestmark = pytest.mark.usefixtures("short_sequences_look_ahead")

NAMES = ("grad_x", "grad_decay", "grad_h0")


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each adjoint that looked ahead could do so."""
    return watch(linear_scan, "adjoint_ahead", monkeypatch)


def backward(
    g: Tensor, grad_last: Tensor | None, decay: Tensor, h: Tensor, h0: Tensor | None, reverse: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    return linear_scan.backward(g, grad_last, decay, h, h0, None, reverse=reverse, state_dtype=torch.float32)


def check_same_as_step_by_step(arguments: tuple[Tensor | None, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """`backward` gives the same bits as where nothing looks ahead."""
    found = backward(*arguments)
    monkeypatch.setattr(linear_scan, "worth_looking_ahead", lambda *sizes: False)
    for one, other in zip(found, backward(*arguments), strict=True):
        word = torch.int32 if one.dtype == torch.float32 else torch.int16
        assert torch.equal(one.view(word), other.view(word))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("channels", [1, 3, 8])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("given", [False, True])
def test_gradients(dtype: torch.dtype, channels: int, reverse: bool, given: bool, used: list[bool]) -> None:
    for length in LENGTHS:
        x, decay = torch.randn(1, length, channels).to(dtype).requires_grad_(), torch.tensor(DECAYS[-channels:])
        decay.requires_grad_()
        h0 = torch.randn(1, channels, requires_grad=True) if given else None
        g, grad_last = torch.randn(1, length, channels).to(dtype), torch.randn(1, channels)
        h, last = cofm.linear_scan(x, decay, h0, reverse=reverse, backend="numba")
        inputs = (x, decay) if h0 is None else (x, decay, h0)
        grad_last = grad_last.to(last.dtype)
        grads = torch.autograd.grad((h, last), inputs, (g, grad_last))
        plain = [None if t is None else t.detach() for t in (x, decay, h0)]
        bounds = linear_scan_bounds(*plain, g, grad_last, reverse=reverse)
        for name, grad in zip(NAMES, grads, strict=False):
            assert bounds[name].excess(grad) <= 1
    assert used == [True] * len(LENGTHS)


@pytest.mark.parametrize("kind", ["transposed", "sliced", "expanded"])
def test_views(kind: str, used: list[bool]) -> None:
    decay, h = torch.tensor(DECAYS[:4]), torch.randn(1, LENGTH, 4)
    g = {
        "transposed": torch.randn(1, 4, LENGTH).transpose(1, 2),
        "sliced": torch.randn(1, LENGTH, 9)[:, :, 1:5],
        "expanded": torch.ones(1, 1, 1).expand(1, LENGTH, 4),
    }[kind]
    for one, other in zip(
        backward(g, None, decay, h, None), backward(g.contiguous(), None, decay, h, None), strict=True
    ):
        assert torch.equal(one, other)
    assert used == [True, True]


def test_memory_of_many_steps(used: list[bool]) -> None:
    """An adjoint that comes from far ahead crosses every block by a power that has more digits than float32."""
    length = 2**18
    decay = torch.tensor([1 - 5e-5, -(1 - 5e-5)])
    nothing = torch.zeros(1, length, 2)
    _, _, grad_h0 = backward(nothing, torch.ones(1, 2), decay, nothing, None)
    assert used == [True]
    exact = decay.double() ** length
    error = (grad_h0.double() / exact - 1).abs()
    # A block rounds what arrives at the next one twice, and its factor has 48 digits.
    assert bool((error <= 2 * length / STEPS * 2.0**-24).all())
    rounded = (decay.double() ** STEPS).float().double() ** (length // STEPS)
    assert bool((error < (rounded / exact - 1).abs() / 10).all())


@pytest.mark.parametrize("threads", [1, 3, MAX_PARTS + 1])
def test_any_number_of_threads(threads: int, two_threads: None, used: list[bool]) -> None:
    """No bit of the adjoint changes; the sum of ddecay is taken in parts."""
    x, decay, h0 = torch.randn(1, LENGTH, 5), torch.tensor(DECAYS[:5]), torch.randn(1, 5)
    g, grad_last = torch.randn(1, LENGTH, 5), torch.randn(1, 5)
    h, _ = cofm.linear_scan(x, decay, h0, backend="numba")
    grads = backward(g, grad_last, decay, h, h0)
    torch.set_num_threads(threads)
    others = backward(g, grad_last, decay, h, h0)
    assert used == [True, True]
    bounds = linear_scan_bounds(x, decay, h0, g, grad_last)
    for name, one, other in zip(NAMES, grads, others, strict=True):
        assert torch.equal(one, other) if name != "grad_decay" else bounds[name].excess(other) <= 1


@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("at", [0, LENGTH // 2, LENGTH - 2])  # the last state is no factor of ddecay
@pytest.mark.parametrize("where", ["g", "h"])
def test_what_is_not_finite(
    value: float, at: int, where: str, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bits of the recurrence, also of channels beside the one that is not finite."""
    g, h, decay = torch.randn(1, LENGTH, 3), torch.randn(1, LENGTH, 3), torch.tensor([0.999, 1.0, -0.999])
    (g if where == "g" else h)[0, at, 1] = value
    check_same_as_step_by_step((g, None, decay, h, None), monkeypatch)
    assert used == [False]


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_first_state_that_is_not_finite(value: float, used: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    g, h, decay = torch.randn(1, LENGTH, 2), torch.randn(1, LENGTH, 2), torch.tensor([0.5, 1.0])
    check_same_as_step_by_step((g, None, decay, h, torch.tensor([[1.0, value]])), monkeypatch)
    assert used == [False]


@pytest.mark.parametrize("phase", range(2 * STEPS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adjoint_that_overflows_inside_a_block(
    phase: int, dtype: torch.dtype, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what a block adds from zero nor what is left at its end is infinite, what lies between is: for good."""
    g, at = torch.zeros(1, LENGTH, 1), LENGTH // 2 + phase
    g[0, at], g[0, at - 1], g[0, at - 2] = 3.3e38, 3.3e38, -3.3e38
    g, h, decay = g.to(dtype), torch.zeros(1, LENGTH, 1, dtype=dtype), torch.full((1,), 0.5)
    check_same_as_step_by_step((g, None, decay, h, None), monkeypatch)
    assert used == [False]


@pytest.mark.parametrize("decay", [SMALLEST / 2, 1e-40, torch.inf, torch.nan])
def test_decays_whose_powers_leave_their_range(decay: float, used: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    g, h = torch.randn(1, LENGTH, 2), torch.randn(1, LENGTH, 2)
    check_same_as_step_by_step((g, None, torch.tensor([0.9, decay]), h, None), monkeypatch)
    assert used == [False]


def test_which_adjoints_go_step_by_step(used: list[bool]) -> None:
    x = torch.randn(1, LENGTH, 2, requires_grad=True)
    for decay, starts in ((torch.ones(2), torch.tensor([0])), (torch.ones(1, LENGTH, 2), None)):
        cofm.linear_scan(x, decay, seq_starts=starts, backend="numba")[0].sum().backward()
    wide = torch.randn(1, LENGTH, 9, requires_grad=True)
    cofm.linear_scan(wide, torch.ones(9), backend="numba")[0].sum().backward()
    assert not used
