import pytest
import torch

from cofm_triton.reference import cayley, cayley_inverse


def random(size: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, size, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_the_image_is_orthogonal_of_determinant_one(size: int) -> None:
    basis = cayley(random(size))
    eye = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(basis @ basis.T, eye, rtol=0, atol=1e-14)
    assert torch.linalg.det(basis).item() == pytest.approx(1, rel=1e-13)


def test_only_the_skew_symmetric_part_counts_and_is_the_first_order() -> None:
    free, small = random(4), 1e-6
    torch.testing.assert_close(cayley((free - free.T) / 2), cayley(free), rtol=0, atol=1e-14)
    skew = small * (free - free.T) / 2
    rest = cayley(small * free) - torch.matrix_exp(skew)
    assert rest.abs().max() < 10 * small**3  # A^3 / 4 against A^3 / 6


def test_two_units_turn_by_twice_the_angle_whose_tangent_is_half_the_entry() -> None:
    tangent = 0.3
    basis = cayley(torch.tensor([[0.0, 2 * tangent], [-2 * tangent, 0.0]], dtype=torch.float64))
    cosine, sine = (1 - tangent**2) / (1 + tangent**2), 2 * tangent / (1 + tangent**2)
    expected = torch.tensor([[cosine, sine], [-sine, cosine]], dtype=torch.float64)
    torch.testing.assert_close(basis, expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("size", [1, 2, 5, 12])
def test_every_orthogonal_matrix_is_reached_up_to_the_signs_of_rows(size: int) -> None:
    orthogonal = torch.linalg.qr(random(size, seed=3)).Q
    for basis in (orthogonal, -torch.eye(size, dtype=torch.float64), orthogonal.flip(0)):
        free = cayley_inverse(basis)
        torch.testing.assert_close(free, -free.T, rtol=0, atol=1e-13)
        signs = (cayley(free) @ basis.T).diagonal().round()
        assert (signs.abs() == 1).all()
        torch.testing.assert_close(signs[:, None] * basis, cayley(free), rtol=0, atol=1e-13)
