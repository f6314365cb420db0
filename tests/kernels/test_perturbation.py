"""The sweep kernel against the definition: every nonlinearity and metric, ragged in every dimension."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from sweep_cases import random_cells

from cofm_triton.kernels import perturbation as kernels
from cofm_triton.kernels.launch import MAX_STATE_WORDS
from cofm_triton.kernels.perturbation import sweep_errors
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.perturbation.stacking import stack
from cofm_triton.reference import Dynamics, rnn_functional
from cofm_triton.step.stacked_cells import join

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# Models, units, sequences, steps, inputs and outputs: none fills its blocks; WIDE takes units in groups.
NARROW, MANY, WIDE = (3, 5, 5, 9, 1, 1), (33, 3, 5, 4, 2, 3), (2, 18, 3, 4, 1, 1)


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("recurrence", "nonlinearity", "shape", "weighted"),
    [
        ("diagonal", "hardtanh", NARROW, True),
        ("diagonal", "tanh", NARROW, False),
        ("diagonal", "relu", MANY, True),
        ("ssm", "hardtanh", MANY, False),
        ("diagonal", "hardtanh", WIDE, True),
        ("diagonal", "linear", NARROW, True),
    ],
)
def test_errors_are_those_of_the_definition(
    recurrence: str, nonlinearity: str, shape: tuple[int, ...], weighted: bool, dtype: torch.dtype
) -> None:
    count, units, sequences, steps, inputs, outputs = shape
    model = RNNFunctional(
        inputs, units, outputs, recurrence=recurrence, nonlinearity=nonlinearity, dt=0.5, dtype=torch.float64
    )
    moved = {
        name: p.detach() + 0.3 * randn(count, *p.shape, seed=i) for i, (name, p) in enumerate(model.named_parameters())
    }
    x, y = randn(sequences, steps, inputs, seed=10), randn(sequences, steps, outputs, seed=11)
    dynamics = Dynamics("softplus", recurrence, nonlinearity, 0.5, "exact")
    rows = [{name: value[k] for name, value in moved.items()} for k in range(count)]
    gaps = torch.stack([rnn_functional(row, x, dynamics) - y for row in rows])
    weights = torch.linspace(0.1, 2, steps, dtype=torch.float64) if weighted else None
    expected = gaps.abs().amax((1, 2, 3)) if weights is None else (weights[:, None] * gaps**2).sum((1, 2, 3))
    cells = stack(model, {name: value.to(DEVICE) for name, value in moved.items()})
    to_device = (None if weights is None else weights.to(DEVICE),)
    actual = sweep_errors(cells, x.to(DEVICE, dtype), y.to(DEVICE, dtype), *to_device)
    assert actual.dtype == torch.float64
    # As for the compiled sweep: 8 roundings a step, E quadratic in y.
    torch.testing.assert_close(actual.cpu(), expected, rtol=16 * steps * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_lost_state_shows_and_stays_with_its_model(weighted: bool) -> None:
    model = RNNFunctional(1, 2, nonlinearity="relu", parameterization="direct", discretization="euler")
    moved = {name: p.detach().double().expand(3, *p.shape).clone() for name, p in model.named_parameters()}
    moved["rnn.rate_l0"][1] = torch.nan
    cells = stack(model, {name: value.to(DEVICE) for name, value in moved.items()})
    x, weights = torch.ones(3, 5, 1, device=DEVICE), torch.ones(5, dtype=torch.float64, device=DEVICE)
    errors = sweep_errors(cells, x, x, weights if weighted else None)
    assert errors.isnan().tolist() == [False, True, False]


def test_wide_models_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "launch", lambda *_: lambda *_, **__: None)
    x = torch.zeros(1, 1, 1)
    widest = random_cells("hardtanh", "linear", MAX_STATE_WORDS, 1, 1, 1)
    wider = random_cells("hardtanh", "linear", MAX_STATE_WORDS + 1, 1, 1, 1)
    half, more = (random_cells("hardtanh", "linear", MAX_STATE_WORDS // 2 + i, 1, 1, 1) for i in (0, 1))
    for cells, inputs, fit in (
        (widest, x, True),
        (wider, x, False),
        (half, x.double(), True),
        (more, x.double(), False),
    ):
        assert (sweep_errors(cells.to(DEVICE), *(inputs.to(DEVICE),) * 2, None) is not None) == fit


def test_models_of_different_width_are_one_launch() -> None:
    """Inert units add nothing: the same errors as one launch per width."""
    parts = [random_cells("hardtanh", "linear", units, 1, 1, 2).to(DEVICE) for units in (3, 18)]
    x, y = (randn(5, 4, 1, seed=seed).to(DEVICE) for seed in (10, 11))
    weights = torch.linspace(0.1, 2, 4, dtype=torch.float64).to(DEVICE)
    alone = torch.cat([sweep_errors(part, x, y, weights) for part in parts])
    together = sweep_errors(join(parts), x, y, weights)
    torch.testing.assert_close(together, alone, rtol=16 * 4 * torch.finfo(torch.float64).eps, atol=0)
