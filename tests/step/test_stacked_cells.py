"""Stacked coefficients: kernels of linear models, powers, models of different width as one."""

import pytest
import torch
from sweep_cases import random_cells, random_pairs

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.perturbation.stacking import stack
from cofm_triton.reference import Dynamics, rnn_functional
from cofm_triton.step.stacked_cells import StackedCells, impulse_response, join, powers


@pytest.mark.parametrize("recurrence", ["diagonal", "ssm"])
@pytest.mark.parametrize("discretization", ["euler", "exact"])
def test_kernel_is_the_response_to_impulses(recurrence: str, discretization: str) -> None:
    torch.manual_seed(0)
    model = RNNFunctional(
        2,
        5,
        3,
        recurrence=recurrence,
        nonlinearity="linear",
        discretization=discretization,
        dt=0.3,
        dtype=torch.float64,
    )
    parameters = {name: value.detach()[None] for name, value in model.named_parameters()}
    kernel = impulse_response(stack(model, parameters), 9)[0]
    dynamics = Dynamics("softplus", recurrence, "linear", 0.3, discretization)
    plain = dict(model.named_parameters())
    silent = rnn_functional(plain, torch.zeros(1, 9, 2, dtype=torch.float64), dynamics)[0]
    torch.testing.assert_close(kernel[:, 2].cumsum(-1), silent.T, rtol=1e-12, atol=1e-14)
    for channel in range(2):
        impulse = torch.zeros(1, 9, 2, dtype=torch.float64)
        impulse[0, 0, channel] = 1
        response = rnn_functional(plain, impulse, dynamics)[0] - silent
        torch.testing.assert_close(kernel[:, channel], response.T, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("length", [1, 2, 9])
def test_kernel_of_pairs_is_that_of_their_matrix(length: int) -> None:
    cells = random_pairs("linear", 3, 2, 3, 4)
    kernel = impulse_response(cells, length)
    assert kernel.dtype == torch.float64 and kernel.shape == (4, 3, 3, length)
    # Powers of decays of size 1 or less, each of 3 pairs read out with numbers of size 1.
    torch.testing.assert_close(kernel, impulse_response(cells.as_dense(), length), rtol=1e-12, atol=1e-13)


def test_pairs_as_two_units_each() -> None:
    cells = random_pairs("tanh", 2, 2, 1, 1)
    dense = cells.as_dense()
    (a, b), (c, d) = dense.rate[0, 2:, 2:].tolist()
    assert complex(a, c) == complex(d, -b) == cells.rate[0, 1].item() and not dense.rate[0, :2, 2:].any()
    assert dense.bias[0, 3] == cells.bias[0, 1].imag and dense.encoder[0, 2, 1] == cells.encoder[0, 1, 1].real
    assert dense.readout[0, 0, 3] == -cells.readout[0, 0, 1].imag  # Re(c h) = Re c Re h - Im c Im h
    assert cells.kind != random_cells("tanh", "linear", 2, 2, 1, 1).kind


@pytest.mark.parametrize("length", [1, 2, 3, 8, 13])
def test_powers(length: int) -> None:
    base = torch.tensor([[0.9, -0.7], [0.0, 1.0]], dtype=torch.float64)
    expected = torch.stack([base**s for s in range(length)], -1)
    torch.testing.assert_close(powers(base, length), expected, rtol=1e-14, atol=0)


def test_powers_grow_without_false_overflow() -> None:
    """base^(length - 1) is finite although a larger square on the way is not."""
    base = torch.tensor([1e10], dtype=torch.float64)
    assert powers(base, 31)[0, -1].item() == pytest.approx(1e300)


def test_joined_models_get_inert_units() -> None:
    narrow, wide = random_cells("hardtanh", "linear", 2, 3, 1, 2), random_cells("hardtanh", "linear", 5, 3, 1, 1)
    joined = join([narrow, wide])
    assert joined.kind == narrow.kind == wide.kind and joined.count == 3
    assert joined.widths is not None and joined.widths.tolist() == [2, 2, 5]
    assert joined.rate.shape == (3, 5) and joined.encoder.shape == (3, 5, 3) and joined.readout.shape == (3, 1, 5)
    for name in ("rate", "bias", "encoder"):
        assert torch.equal(getattr(joined, name)[:2, :2], getattr(narrow, name))
        assert not getattr(joined, name)[:2, 2:].any()
        assert torch.equal(getattr(joined, name)[2:], getattr(wide, name))
    assert not joined.readout[:2, :, 2:].any() and torch.equal(joined[2:].readout, wide.readout)
    assert joined[1:].widths is not None and joined[1:].widths.tolist() == [2, 5]
    again = joined[:2].widened(2)
    assert torch.equal(again.rate, narrow.rate) and torch.equal(again.readout, narrow.readout)


def test_one_nonlinearity_at_most() -> None:
    one = torch.ones(1, 1)
    with pytest.raises(ValueError, match="one of act_in and act_out must be 'linear'"):
        StackedCells(one, one[None], one, one[None], one, 1.0, "tanh", "relu")
