"""The sweep kernel for dense models against the definition, ragged in every dimension."""

import pytest
import torch

pytest.importorskip("triton")

from sweep_cases import defined_errors, dense_models, randn

from cofm_triton.kernels import dense_perturbation as kernels
from cofm_triton.kernels.dense_perturbation import sweep_errors

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("nonlinearity", "shape", "weighted"),
    [
        ("hardtanh", (2, 5, 5, 5, 1, 1), True),
        ("tanh", (2, 18, 3, 4, 2, 3), False),
        ("relu", (1, 16, 1, 1, 1, 1), True),
        ("linear", (3, 3, 2, 3, 1, 2), True),
    ],
)
def test_errors_are_those_of_the_definition(
    nonlinearity: str, shape: tuple[int, ...], weighted: bool, dtype: torch.dtype
) -> None:
    count, units, sequences, steps, inputs, outputs = shape
    cells, moved, dynamics = dense_models(nonlinearity, units, inputs, outputs, count)
    x, y = randn(sequences, steps, inputs, seed=10), randn(sequences, steps, outputs, seed=11)
    weights = torch.linspace(0.1, 2, steps, dtype=torch.float64) if weighted else None
    expected = defined_errors(moved, dynamics, x, y, weights)
    on_device = None if weights is None else weights.to(DEVICE)
    cells = cells.to(DEVICE)
    actual = sweep_errors(cells, x.to(DEVICE, dtype), y.to(DEVICE, dtype), on_device)
    assert actual.dtype == torch.float64
    # As for the compiled sweep: `units` products and 8 more roundings a step, E quadratic in y.
    rtol = 2 * (units + 8) * steps * torch.finfo(dtype).eps
    torch.testing.assert_close(actual.cpu(), expected, rtol=rtol, atol=0)


def test_a_lost_state_shows_and_stays_with_its_model() -> None:
    cells, _, _ = dense_models("relu", 3, 1, 1, 3)
    cells.rate[1, 0, 0] = torch.nan
    x, weights = torch.ones(3, 5, 1, device=DEVICE), torch.ones(5, dtype=torch.float64, device=DEVICE)
    for some in (weights, None):
        assert sweep_errors(cells.to(DEVICE), x, x, some).isnan().tolist() == [False, True, False]


def test_wide_models_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "launch", lambda *_: lambda *_, **__: None)
    x = torch.zeros(1, 1, 1, device=DEVICE)
    fitting = [sweep_errors(dense_models("tanh", size, 1, 1, 1)[0].to(DEVICE), x, x, None) for size in (128, 129)]
    assert [errors is not None for errors in fitting] == [True, False]
