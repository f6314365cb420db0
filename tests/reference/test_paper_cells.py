import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cofm_triton.reference import (
    congruence,
    diagonal_cell,
    linear_scan,
    lru_cell,
    nonlinearity,
    rotated_cell,
)

NAMES = ["linear", "tanh", "hardtanh"]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


E, W, P = random(2, 12, 5), random(5, seed=1), random(5, 5, seed=2) / 2


@pytest.mark.parametrize("name", NAMES)
def test_diagonal_and_lru(name: str) -> None:
    act, dt = nonlinearity(name).act, 0.5
    a = 1 - torch.exp(-torch.exp(W))
    diagonal = lru = torch.zeros(2, 5, dtype=torch.float64)
    for k in range(12):
        diagonal = diagonal + dt * act(E[:, k] - torch.relu(W) * diagonal)
        lru = lru + dt * act(torch.sqrt(1 - a**2) * E[:, k] - a * lru)
        ours = diagonal_cell(E, torch.relu(W), dt=dt, nonlinearity=name)[:, k]
        torch.testing.assert_close(ours, diagonal, rtol=1e-12, atol=1e-12)
        ours = lru_cell(E, W, dt=dt, nonlinearity=name)[:, k]
        torch.testing.assert_close(ours, lru, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rate", [torch.relu(W), F.softplus(W), W], ids=["relu", "plus", "noisy"])
def test_rotated_with_any_basis(rate: Tensor, name: str) -> None:
    # The paper's code applies P, then the rates, then P transposed to each state in turn.
    act, h = nonlinearity(name).act, torch.zeros(2, 5, dtype=torch.float64)
    states = rotated_cell(E, rate, P, dt=0.5, nonlinearity=name)
    for k in range(12):
        h = h + 0.5 * act(E[:, k] - F.linear(rate * F.linear(h, P), P.T))
        torch.testing.assert_close(states[:, k], h, rtol=1e-12, atol=1e-12)


def test_rotated_linear_cell_is_a_scan_in_the_rotated_basis() -> None:
    basis, _ = torch.linalg.qr(P)
    rate = torch.sigmoid(W)
    states = rotated_cell(E, rate, basis, dt=0.5, nonlinearity="linear")
    rotated, _ = linear_scan(0.5 * E @ basis.T, 1 - 0.5 * rate)
    torch.testing.assert_close(states, rotated @ basis)


def test_congruence() -> None:
    torch.testing.assert_close(congruence(W, P), P.T @ torch.diag(W) @ P)
    torch.testing.assert_close(congruence(W, P), congruence(W, P).T)
