"""The matrices of the orthogonal and the dense recurrence."""

import torch

from cofm_triton import reference
from cofm_triton.step.recurrent_matrix import congruence, decay_rate, diagonal_plus

GENERATOR = torch.Generator().manual_seed(0)
RATE = torch.rand(5, dtype=torch.float64, generator=GENERATOR)
MATRIX = torch.randn(5, 5, dtype=torch.float64, generator=GENERATOR)


def test_congruence_is_the_papers() -> None:
    torch.testing.assert_close(congruence(RATE, MATRIX), reference.congruence(RATE, MATRIX))


def test_an_orthogonal_basis_keeps_the_rates() -> None:
    basis, _ = torch.linalg.qr(MATRIX)
    torch.testing.assert_close(torch.linalg.eigvalsh(congruence(RATE, basis)), RATE.sort().values)


def test_turns_leave_the_symmetric_part_alone() -> None:
    turned = diagonal_plus(RATE, MATRIX, skew=True)
    torch.testing.assert_close((turned + turned.T) / 2, torch.diag(RATE))
    torch.testing.assert_close(turned - turned.T, MATRIX - MATRIX.T)
    assert decay_rate(turned) >= RATE.min()
    torch.testing.assert_close(diagonal_plus(RATE, MATRIX, skew=False) - torch.diag(RATE), MATRIX)


def test_a_growing_mode_has_a_negative_decay_rate() -> None:
    assert decay_rate(torch.tensor([[1.0, 0.0], [7.0, -0.25]])) == -0.25
