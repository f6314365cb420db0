"""`reference.gated_rnn` against loops written from the equations of the papers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cofm_triton import reference

B, T, D = 2, 7, 4


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def rg_lru(x: Tensor, r: Tensor, i: Tensor, raw: Tensor, c: float) -> Tensor:
    """arXiv 2402.19427, eq 1-4; a = sigmoid(Lambda)."""
    h, rows = torch.zeros(B, D, dtype=x.dtype), []
    for t in range(T):
        a = torch.sigmoid(raw) ** (c * torch.sigmoid(r[:, t]))
        h = a * h + torch.sqrt(1 - a**2) * (torch.sigmoid(i[:, t]) * x[:, t])
        rows.append(h)
    return torch.stack(rows, 1)


def min_gru(candidate: Tensor, z: Tensor) -> Tensor:
    """arXiv 2410.01201, section 3.1."""
    h, rows = torch.zeros(B, D, dtype=z.dtype), []
    for t in range(T):
        update = torch.sigmoid(z[:, t])
        h = (1 - update) * h + update * candidate[:, t]
        rows.append(h)
    return torch.stack(rows, 1)


def min_lstm(candidate: Tensor, f: Tensor, i: Tensor) -> Tensor:
    """arXiv 2410.01201, section 3.2, with normalised gates."""
    h, rows = torch.zeros(B, D, dtype=f.dtype), []
    for t in range(T):
        forget, enter = torch.sigmoid(f[:, t]), torch.sigmoid(i[:, t])
        h = forget / (forget + enter) * h + enter / (forget + enter) * candidate[:, t]
        rows.append(h)
    return torch.stack(rows, 1)


def s6(x: Tensor, step: Tensor, a: Tensor) -> Tensor:
    """arXiv 2312.00752, algorithm 2, states of one channel; x is B_t x_t, and A = -a."""
    h, rows = torch.zeros(B, D, dtype=x.dtype), []
    for t in range(T):
        delta = torch.nn.functional.softplus(step[:, t])
        h = torch.exp(-delta * a) * h + delta * x[:, t]
        rows.append(h)
    return torch.stack(rows, 1)


def test_the_papers_cells_are_rows_of_the_table() -> None:
    x, p, q, raw = (draw(*shape, seed=k) for k, shape in enumerate([(B, T, D)] * 3 + [(D,)]))
    ones, softplus = torch.ones(D, dtype=torch.float64), torch.nn.functional.softplus
    cells = {
        "rg_lru": (rg_lru(x, p, q, raw, 8.0), q, 8.0 * softplus(-raw)),
        "mingru": (min_gru(x, p), None, ones),
        "minlstm": (min_lstm(x, p, q), q, ones),
        "s6": (s6(x, p, raw.exp()), None, raw.exp()),
    }
    assert cells.keys() == set(reference.GATES)
    for gates, (expected, second, rate) in cells.items():
        h, h_last = reference.gated_rnn(x, rate, p, second, gates=gates)
        torch.testing.assert_close(h, expected)
        torch.testing.assert_close(h_last, expected[:, -1])


@pytest.mark.parametrize("gates", reference.GATES)
def test_stable_for_every_input(gates: str) -> None:
    """Decays stay in [0, 1] at the ends of the range, and what is near 1 keeps its distance from it."""
    p = torch.tensor([-1e30, -700.0, -40.0, 0.0, 40.0, 700.0, 1e30], dtype=torch.float64)
    p, q = (grid.flatten() for grid in torch.meshgrid(p, p, indexing="ij"))
    decay, gain = reference.gate_coefficients(gates, torch.tensor(0.5, dtype=torch.float64), p, q)
    assert bool(((decay >= 0) & (decay <= 1) & (gain >= 0)).all())
    if gates != "s6":
        assert bool((gain <= 1).all())
    _, size = reference.gate_coefficients(gates, torch.tensor(1.0).double(), torch.tensor(-60.0).double(), 0 * p[:1])
    tiny = torch.tensor(-60.0).double().exp()
    if gates == "rg_lru":
        torch.testing.assert_close(size, (0.5 * (2 * tiny).sqrt()).expand(1))
    if gates in ("mingru", "s6"):
        torch.testing.assert_close(size, tiny)


def test_pairs_turn() -> None:
    """A pair with one decay is a complex number that is multiplied by decay * exp(i angle)."""
    x, p, angle = draw(B, T, D, seed=1), draw(B, T, D // 2, seed=2), draw(D // 2, seed=3)
    rate, logits = torch.ones(D, dtype=torch.float64), p.repeat_interleave(2, -1)
    h, _ = reference.gated_rnn(x, rate, logits, gates="mingru", angle=angle)
    decay, gain = reference.gate_coefficients("mingru", rate, logits, None)
    turning = decay[..., ::2] * torch.polar(torch.ones_like(angle), angle)
    expected, _ = reference.linear_scan(gain * x, turning)
    torch.testing.assert_close(h, expected)
