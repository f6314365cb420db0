import pytest
import torch

from cofm_triton.reference import (
    mse,
    sup_error,
    tail_weights,
    temporal_weights,
    temporally_weighted_mse,
)


def test_weights_at_the_papers_length() -> None:
    v = temporal_weights(100)
    assert v.dtype == torch.float64
    assert v[0].item() == pytest.approx(2.9555194325402693e-4, rel=1e-12)
    assert v[99].item() == pytest.approx(2.955519432540269, rel=1e-12)
    assert (v**2).mean().item() == pytest.approx(1.7909856657307524, rel=1e-12)
    tails = tail_weights(100)
    assert tails[0].item() == pytest.approx(1.7909856657307524, rel=1e-12)
    assert tails[50].item() == pytest.approx(1.733625209257393, rel=1e-12)
    assert tails[99].item() == pytest.approx(0.08735095116123155, rel=1e-12)


@pytest.mark.parametrize("length", [1, 2, 17, 1600])
def test_weights_by_their_definition(length: int) -> None:
    squares = [((k + 1) / (length + 1)) ** 2 for k in range(length)]
    expected = [square * length / sum(squares) for square in squares]
    v = temporal_weights(length)
    torch.testing.assert_close(v, torch.tensor(expected, dtype=torch.float64))
    s = length // 2
    assert tail_weights(length)[s].item() == pytest.approx((v[s:] ** 2).sum().item() / length)


def test_errors_by_hand() -> None:
    prediction = torch.tensor([[[1.0], [3.0]]])
    target = torch.tensor([[[0.0], [1.0]]])
    # v = (0.4, 1.6): ((0.4 * 1)^2 + (1.6 * 2)^2) / 2
    assert temporally_weighted_mse(prediction, target).item() == pytest.approx(5.2, rel=1e-6)
    assert mse(prediction, target).item() == 2.5
    assert sup_error(prediction, target).item() == 2.0


def test_the_average_runs_over_batch_and_outputs_too() -> None:
    difference = torch.randn(3, 4, 2, dtype=torch.float64)
    parts = [
        temporally_weighted_mse(difference[n, None, :, o, None], torch.zeros(1, 4, 1))
        for n in range(3)
        for o in range(2)
    ]
    whole = temporally_weighted_mse(difference, torch.zeros_like(difference))
    torch.testing.assert_close(whole, torch.stack(parts).mean())


@pytest.mark.parametrize("error", [temporally_weighted_mse, mse, sup_error])
def test_nan_is_never_lost(error: object) -> None:
    assert callable(error)
    prediction = torch.tensor([[[1.0], [torch.nan], [2.0]]])
    assert error(prediction, torch.zeros_like(prediction)).isnan()
