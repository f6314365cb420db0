"""A recurrence with resets is the recurrence of every piece alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cofm_triton.reference import gated_rnn, linear_scan, rnn_scan

RESETS = torch.tensor([[1, 0, 0, 1, 1, 0], [0, 0, 1, 0, 0, 1]], dtype=torch.bool)
Recurrence = Callable[..., tuple[Tensor, Tensor]]


def linear(x: Tensor, h0: Tensor, gates: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return linear_scan(x, gates.sigmoid(), h0, **options)


def reverse(x: Tensor, h0: Tensor, gates: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return linear_scan(x, gates.sigmoid(), h0, reverse=True, **options)


def pairs(x: Tensor, h0: Tensor, gates: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return linear_scan(x, torch.polar(gates[..., 0::2].sigmoid(), gates[..., 1::2]), h0, **options)


def gated(x: Tensor, h0: Tensor, gates: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    rate, angle = torch.ones(2, dtype=x.dtype), torch.ones(1, dtype=x.dtype)
    return gated_rnn(x, rate, gates, h0=h0, gates="mingru", angle=angle, **options)


def nonlinear(x: Tensor, h0: Tensor, gates: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    return rnn_scan(x, gates.sigmoid(), h0, dt=0.7, nonlinearity="tanh", **options)


def nonlinear_pairs(x: Tensor, h0: Tensor, gates: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    one = torch.ones(1, dtype=x.dtype)
    return rnn_scan(x * gates, one, h0, dt=0.7, nonlinearity="tanh", frequency=one, **options)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


def piece_by_piece(run: Recurrence, x: Tensor, h0: Tensor, gates: Tensor, reset_to: str) -> tuple[Tensor, Tensor]:
    rows, lasts = [], []
    for b in range(len(x)):
        cuts = [t for t in range(x.shape[1]) if t == 0 or RESETS[b, t]]
        spans = [slice(a, e) for a, e in zip(cuts, [*cuts[1:], x.shape[1]], strict=True)]
        entering = spans[-1] if run is reverse else spans[0]  # the piece that h0 enters
        dropped = run is not reverse and bool(RESETS[b, 0])
        results = []
        for span in spans:
            from_zero = reset_to == "zero" and (span != entering or dropped)
            start = torch.zeros_like(h0[b : b + 1]) if from_zero else h0[b : b + 1]
            results.append(run(x[b : b + 1, span], start, gates[b : b + 1, span]))
        rows.append(torch.cat([h for h, _ in results], 1))
        lasts.append(results[0 if run is reverse else -1][1])
    return torch.cat(rows), torch.cat(lasts)


@pytest.mark.parametrize("reset_to", ["h0", "zero"])
@pytest.mark.parametrize("run", [linear, reverse, pairs, gated, nonlinear, nonlinear_pairs])
def test_pieces_alone(run: Recurrence, reset_to: str) -> None:
    x, h0, gates = draw(2, 6, 2, seed=0), draw(2, 2, seed=1), draw(2, 6, 2, seed=2)
    pulls = (draw(2, 6, 2, seed=3), draw(2, 2, seed=4))
    found = run(x, h0, gates, resets=RESETS, reset_to=reset_to)
    expected = piece_by_piece(run, x, h0, gates, reset_to)
    grads = [torch.autograd.grad(results, (x, h0, gates), pulls) for results in (found, expected)]
    for a, b in zip((*found, *grads[0]), (*expected, *grads[1]), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=16 * torch.finfo(a.dtype).eps * float(b.detach().abs().max()))


@pytest.mark.parametrize("run", [linear, reverse, nonlinear])
def test_packed_sequences_are_cut_each_alone(run: Recurrence) -> None:
    x, h0, gates = draw(1, 6, 2, seed=0), draw(2, 2, seed=1), draw(1, 6, 2, seed=2)
    cut, starts = torch.tensor([[1, 0, 1, 1, 0, 1]], dtype=torch.bool), torch.tensor([0, 3])
    h, last = run(x, h0, gates, resets=cut, reset_to="zero", seq_starts=starts)
    for s, span in enumerate((slice(0, 3), slice(3, 6))):
        one = run(x[:, span], h0[s : s + 1], gates[:, span], resets=cut[:, span], reset_to="zero")
        assert torch.equal(h[:, span], one[0])
        assert torch.equal(last[s : s + 1], one[1])


def test_what_pieces_start_from_has_a_name() -> None:
    with pytest.raises(ValueError, match="reset_to must be one of"):
        linear(draw(2, 6, 2, seed=0), draw(2, 2, seed=1), draw(2, 6, 2, seed=2), resets=RESETS, reset_to="mean")
