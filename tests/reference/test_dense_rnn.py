import pytest
import torch
from torch import Tensor

from cofm_triton.reference import NONLINEARITIES, dense_rnn, nonlinearity, rnn_scan


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NONLINEARITIES)
@pytest.mark.parametrize("shape", [(1, 0, 1), (2, 1, 3), (2, 7, 5), (1, 33, 2)])
def test_a_diagonal_matrix_is_the_diagonal_recurrence(shape: tuple[int, int, int], name: str) -> None:
    x, rate, h0 = random(*shape), random(shape[2], seed=1).abs() / 2, random(shape[0], shape[2])
    h, h_last = dense_rnn(x, torch.diag(rate), h0, dt=0.5, nonlinearity=name)
    expected, last = rnn_scan(x, rate, h0, dt=0.5, nonlinearity=name)
    torch.testing.assert_close(h, expected)
    torch.testing.assert_close(h_last, last)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_row_i_of_the_weight_makes_unit_i(name: str) -> None:
    x, weight, h0 = random(1, 2, 3), random(3, 3, seed=1), random(1, 3, seed=2)
    state, act = h0[0], nonlinearity(name).act
    h, _ = dense_rnn(x, weight, h0, nonlinearity=name)
    for t in range(2):
        drive = [x[0, t, i] - (weight[i] * state).sum() for i in range(3)]
        state = state + act(torch.stack(drive))
        torch.testing.assert_close(h[0, t], state)


def test_linear_is_a_matrix_power() -> None:
    weight, h0 = random(4, 4) / 4, random(2, 4, seed=2)
    step = torch.eye(4, dtype=torch.float64) - 0.5 * weight
    _, h_last = dense_rnn(torch.zeros(2, 9, 4, dtype=torch.float64), weight, h0, dt=0.5, nonlinearity="linear")
    torch.testing.assert_close(h_last, h0 @ torch.linalg.matrix_power(step, 9).T)


@pytest.mark.parametrize("name", NONLINEARITIES)
def test_first_and_second_derivatives(name: str) -> None:
    arguments = (
        2 * random(2, 3, 2).requires_grad_(),
        random(2, 2, seed=1).requires_grad_(),
        random(2, 2, seed=2).requires_grad_(),
    )

    def run(x: Tensor, weight: Tensor, h0: Tensor) -> tuple[Tensor, Tensor]:
        return dense_rnn(x, weight, h0, dt=0.7, nonlinearity=name)

    assert torch.autograd.gradcheck(run, arguments)
    assert torch.autograd.gradgradcheck(run, arguments)


def test_sixteen_bit_input_has_a_float32_state() -> None:
    x, weight = torch.ones(1, 600, 1, dtype=torch.bfloat16), torch.zeros(1, 1)
    h, h_last = dense_rnn(x, weight)
    assert h.dtype == h_last.dtype == torch.bfloat16
    assert torch.equal(h.flatten(), torch.arange(1, 601).to(torch.bfloat16))


def test_unknown_nonlinearity() -> None:
    with pytest.raises(ValueError, match="nonlinearity"):
        dense_rnn(torch.zeros(1, 1, 1), torch.ones(1, 1), nonlinearity="gelu")
