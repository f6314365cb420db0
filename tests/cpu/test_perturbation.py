"""The compiled and the PyTorch sweep against the definition, in both precisions."""

from collections.abc import Callable

import pytest
import torch
from sweep_cases import random_cells
from torch import Tensor

from cofm_triton.cpu.blocked import perturbation as blocked
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.perturbation.stacking import stack
from cofm_triton.reference import Dynamics, rnn_functional
from cofm_triton.step.stacked_cells import StackedCells, join

jit = pytest.importorskip("cofm_triton.cpu.jit.perturbation", reason="numba is not installed")
BACKENDS = [pytest.param(jit.sweep_errors, id="jit"), pytest.param(blocked.sweep_errors, id="blocked")]
RECURRENCES = [
    ("diagonal", "hardtanh", "exact", "softplus"),
    ("diagonal", "tanh", "euler", "exp"),
    ("diagonal", "relu", "exact", "inverse"),
    ("diagonal", "linear", "exact", "direct"),
    ("ssm", "tanh", "exact", "lru"),
    ("ssm", "hardtanh", "euler", "softplus"),
    ("ssm", "relu", "exact", "exp"),
]
# A step rounds a few times, errors of T steps add up at worst linearly, and E is quadratic in y:
# 8 roundings x 2 x T, relative to the error, which is of the order of the outputs' squares here.
STEPS = 21
TOLERANCE = {dtype: 16 * STEPS * torch.finfo(dtype).eps for dtype in (torch.float32, torch.float64)}
Sweep = Callable[..., Tensor]


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make(
    options: tuple[str, str, str, str], inputs: int, units: int, outputs: int, count: int
) -> tuple[StackedCells, dict[str, Tensor], Dynamics]:
    recurrence, nonlinearity, discretization, name = options
    model = RNNFunctional(
        inputs,
        units,
        outputs,
        recurrence=recurrence,
        nonlinearity=nonlinearity,
        discretization=discretization,
        parameterization=name,
        dt=0.5,
        dtype=torch.float64,
    )
    moved = {
        key: value.detach() + 0.1 * randn(count, *value.shape, seed=len(key)) for key, value in model.named_parameters()
    }
    return stack(model, moved), moved, Dynamics(name, recurrence, nonlinearity, 0.5, discretization)


def expected_gaps(moved: dict[str, Tensor], dynamics: Dynamics, x: Tensor, y: Tensor) -> Tensor:
    count = len(next(iter(moved.values())))
    rows = [{name: value[k] for name, value in moved.items()} for k in range(count)]
    return torch.stack([rnn_functional(row, x, dynamics) - y for row in rows])


@pytest.mark.parametrize("sweep", BACKENDS)
@pytest.mark.parametrize("options", RECURRENCES, ids="-".join)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_recurrence(sweep: Sweep, options: tuple[str, str, str, str], dtype: torch.dtype) -> None:
    cells, moved, dynamics = make(options, 1, 6, 1, 3)
    x, y = randn(33, STEPS, 1, seed=1), randn(33, STEPS, 1, seed=2)
    weights = torch.linspace(0.1, 2, STEPS, dtype=torch.float64)
    gaps = expected_gaps(moved, dynamics, x, y)
    squares = (weights[:, None] * gaps**2).sum((1, 2, 3))
    largest = gaps.abs().amax((1, 2, 3))
    rtol = TOLERANCE[dtype]
    actual = sweep(cells, x.to(dtype), y.to(dtype), weights)
    assert actual.dtype == torch.float64
    torch.testing.assert_close(actual, squares, rtol=rtol, atol=0)
    actual = sweep(cells, x.to(dtype), y.to(dtype), None)
    torch.testing.assert_close(actual, largest, rtol=rtol, atol=0)


@pytest.mark.parametrize("sweep", BACKENDS)
@pytest.mark.parametrize(
    ("sequences", "steps", "inputs", "units", "outputs", "count"),
    [(1, 1, 1, 1, 1, 1), (300, 3, 1, 5, 1, 2), (17, 8, 3, 4, 2, 5), (64, 7, 2, 9, 1, 1), (257, 2, 1, 3, 2, 40)],
)
def test_every_shape(
    sweep: Sweep, sequences: int, steps: int, inputs: int, units: int, outputs: int, count: int
) -> None:
    """Ragged blocks of sequences, units that do not fill a group of two, several channels."""
    cells, moved, dynamics = make(RECURRENCES[0], inputs, units, outputs, count)
    x, y = randn(sequences, steps, inputs, seed=1), randn(sequences, steps, outputs, seed=2)
    weights = torch.ones(steps, dtype=torch.float64)
    gaps = expected_gaps(moved, dynamics, x, y)
    actual = sweep(cells, x, y, weights)
    torch.testing.assert_close(actual, (gaps**2).sum((1, 2, 3)), rtol=1e-13, atol=0)
    actual = sweep(cells, x, y, None)
    torch.testing.assert_close(actual, gaps.abs().amax((1, 2, 3)), rtol=1e-13, atol=0)


@pytest.mark.parametrize("sweep", BACKENDS)
@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "hardtanh", "relu"])
def test_a_lost_state_shows(sweep: Sweep, nonlinearity: str) -> None:
    """Not a number in one sequence of one step reaches the sum and the maximum of its model."""
    cells, _, _ = make(("diagonal", nonlinearity, "euler", "direct"), 1, 4, 1, 2)
    x, y = randn(40, 5, 1), randn(40, 5, 1, seed=1)
    x[3, 1] = torch.nan
    for weights in (torch.ones(5, dtype=torch.float64), None):
        assert bool(sweep(cells, x, y, weights).isnan().all())


@pytest.mark.parametrize("sweep", BACKENDS)
def test_overflow_is_not_finite_and_stays_with_its_model(sweep: Sweep) -> None:
    cells, _, _ = make(("diagonal", "relu", "euler", "direct"), 1, 4, 1, 3)
    cells.rate[1] = -50.0  # growth by 26 a step: beyond float32 after 28 steps
    cells.bias[1] = 1.0
    x, y = randn(40, 60, 1).float(), randn(40, 60, 1, seed=1).float()
    for weights in (torch.ones(60, dtype=torch.float64), None):
        errors = sweep(cells, x, y, weights)
        assert errors.isfinite().tolist() == [True, False, True]


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    cells, _, _ = make(RECURRENCES[0], 1, 6, 1, 5)
    x, y = randn(700, 9, 1).float(), randn(700, 9, 1, seed=1).float()
    weights = torch.ones(9, dtype=torch.float64)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = jit.sweep_errors(cells, x, y, weights)
        torch.set_num_threads(3)
        together = jit.sweep_errors(cells, x, y, weights)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)


def test_blocks_of_the_pytorch_sweep_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    cells, _, _ = make(RECURRENCES[1], 2, 3, 2, 7)
    x, y = randn(50, 4, 2), randn(50, 4, 2, seed=1)
    weights = torch.ones(4, dtype=torch.float64)
    whole = blocked.sweep_errors(cells, x, y, weights)
    monkeypatch.setattr(blocked, "_MAX_LANES", 16)
    monkeypatch.setattr(blocked, "_CPU_NUMBERS", 100)
    torch.testing.assert_close(blocked.sweep_errors(cells, x, y, weights), whole, rtol=1e-13, atol=0)


def test_the_pytorch_sweep_is_differentiable() -> None:
    cells, _, _ = make(RECURRENCES[1], 1, 2, 1, 2)
    x, y = randn(3, 4, 1), randn(3, 4, 1, seed=1)
    weights = torch.ones(4, dtype=torch.float64)
    rate, encoder = cells.rate.clone().requires_grad_(), cells.encoder.clone().requires_grad_()

    def error(rate: Tensor, encoder: Tensor) -> Tensor:
        moved = StackedCells(
            rate, encoder, cells.bias, cells.readout, cells.offset, cells.dt, cells.act_in, cells.act_out
        )
        return blocked.sweep_errors(moved, x, y, weights)

    assert torch.autograd.gradcheck(error, (rate, encoder))


@pytest.mark.parametrize("sweep", BACKENDS)
@pytest.mark.parametrize("options", RECURRENCES, ids="-".join)
def test_joined_widths(sweep: Sweep, options: tuple[str, str, str, str]) -> None:
    """Models of different width together have the errors that they have alone."""
    parts = [make(options, 2, units, 2, count)[0] for units, count in ((3, 2), (9, 1), (1, 3))]
    x, y = randn(18, STEPS, 2, seed=1), randn(18, STEPS, 2, seed=2)
    weights = torch.linspace(0.1, 2, STEPS, dtype=torch.float64)
    alone = torch.cat([sweep(part, x, y, weights) for part in parts])
    together = sweep(join(parts), x, y, weights)
    torch.testing.assert_close(together, alone, rtol=TOLERANCE[torch.float64], atol=0)


@pytest.mark.parametrize("kinds", [("linear", "tanh"), ("hardtanh", "linear"), ("linear", "linear")], ids="-".join)
def test_any_step(kinds: tuple[str, str]) -> None:
    """The step enters once, whichever nonlinearity there is: against the PyTorch sweep, which steps by the equation."""
    cells = random_cells(*kinds, 4, 2, 1, 3)
    assert cells.dt != 1
    x, y = randn(18, STEPS, 2, seed=1), randn(18, STEPS, 1, seed=2)
    weights = torch.linspace(0.1, 2, STEPS, dtype=torch.float64)
    for w in (weights, None):
        expected = blocked.sweep_errors(cells, x, y, w)
        torch.testing.assert_close(jit.sweep_errors(cells, x, y, w), expected, rtol=TOLERANCE[torch.float64], atol=0)
