"""perturbation_error: against one evaluation per perturbed model, for every path and option."""

import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN
from cofm_triton.loss import rescaled_weights, temporally_weighted_mse
from cofm_triton.memory.function import memory_function
from cofm_triton.ops.backends import INSTALLED
from cofm_triton.perturbation import evaluator, module_errors
from cofm_triton.perturbation.batching import fitting
from cofm_triton.perturbation.curve import PerturbationCurve, perturbation_error
from cofm_triton.perturbation.directions import norm, parameter_shapes, random_direction, slow_direction
from cofm_triton.perturbation.worst_case import ascend
from cofm_triton.step.stacked_cells import StackedCells
from cofm_triton.targets import generate

RADII = [0.0, 0.01, 0.3]
# Paths that sum in another order, at most a few thousand float64 terms.
RTOL = 1e-10


class Wrapped(nn.Module):
    """A module the library knows nothing about, with dropout and a tuple as its output."""

    def __init__(self, layer: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.layer = layer(1, 4, batch_first=True, dtype=torch.float64, **options)
        self.dropout = nn.Dropout(0.5)
        self.readout = nn.Linear(4, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.readout(self.dropout(self.layer(x)[0])), None


class Branching(nn.Module):
    """Control flow that depends on the data: vmap cannot, a loop can."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.7]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight if float(self.weight.detach().sum()) > 0 else -x


def data(sequences: int = 24, length: int = 15) -> tuple[Tensor, Tensor]:
    return generate("exp", sequences, length, seed=3)


def functional(width: int = 4, **options: Any) -> RNNFunctional:
    torch.manual_seed(width)
    return RNNFunctional(1, width, dtype=torch.float64, **options)


def one_by_one(model: nn.Module, x: Tensor, y: Tensor, directions: list[dict[str, Tensor]], metric: str) -> Tensor:
    """The definition: copy, move, run, measure."""
    losses = {
        "twe": temporally_weighted_mse,
        "weights": lambda a, b: (rescaled_weights(a.shape[1], power=1.5).float() * ((a - b) ** 2).mean((0, 2))).sum(),
        "sup": lambda a, b: (a - b).abs().max(),
    }
    base = {name: value.detach().clone() for name, value in model.named_parameters()}
    model.eval()
    errors = torch.empty(len(RADII), len(directions), dtype=torch.float64)
    for r, radius in enumerate(RADII):
        for j, direction in enumerate(directions):
            moved = {n: v + radius * direction.get(n, torch.zeros_like(v)) for n, v in base.items()}
            with torch.no_grad():
                output = torch.func.functional_call(model, moved, (x,))
            errors[r, j] = losses[metric](output[0] if isinstance(output, tuple) else output, y)
    model.train()
    return errors


MODELS = [
    pytest.param(lambda: functional(nonlinearity="hardtanh"), id="hardtanh"),
    pytest.param(lambda: functional(nonlinearity="tanh", parameterization="exp"), id="tanh"),
    pytest.param(lambda: functional(nonlinearity="linear", discretization="euler"), id="linear"),
    pytest.param(lambda: functional(recurrence="ssm", nonlinearity="relu"), id="ssm"),
    pytest.param(lambda: functional(recurrence="orthogonal"), id="orthogonal"),
    pytest.param(lambda: functional(recurrence="dense", nonlinearity="tanh"), id="dense"),
    pytest.param(lambda: functional(parameterization="lru", normalize_input=True), id="normalized"),
    pytest.param(lambda: functional(5, nonlinearity="linear", oscillating=True), id="linear-pairs"),
    pytest.param(lambda: functional(nonlinearity="tanh", oscillating=True, normalize_input=True), id="pairs"),
    pytest.param(lambda: functional(recurrence="ssm", oscillating=True), id="ssm-pairs"),
    pytest.param(lambda: functional(bias=False), id="no-bias"),
    pytest.param(lambda: functional(num_layers=2), id="two-layers"),
    pytest.param(lambda: Wrapped(nn.RNN), id="nn.RNN"),
    pytest.param(lambda: Wrapped(nn.GRU), id="nn.GRU"),
    pytest.param(Branching, id="branching"),
]


@pytest.mark.parametrize("make", MODELS)
@pytest.mark.parametrize("metric", ["twe", "weights", "sup"])
@pytest.mark.parametrize("ball", ["inf", "l2"])
def test_definition(make: Any, metric: str, ball: str) -> None:
    model, (x, y) = make(), data()
    weights = rescaled_weights(x.shape[1], power=1.5, dtype=torch.float32)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    curve = perturbation_error(
        model, x, y, radii=RADII, directions=3, seed=7, ball=ball, metric=weights if metric == "weights" else metric
    )
    shapes = parameter_shapes(model)
    directions = [random_direction(shapes, j, seed=7, ball=ball) for j in range(3)]
    expected = one_by_one(model, x, y, directions, metric)
    torch.testing.assert_close(curve.per_direction[0], expected, rtol=RTOL, atol=0)
    assert torch.equal(curve.error, curve.per_direction.amax(-1))
    assert not curve.diverged.any()
    assert model.training and all(torch.equal(before[n], p) for n, p in model.named_parameters())


class Classifier(nn.Module):
    """(N, T, 1) to logits (N, 3)."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__()
        self.gru = nn.GRU(1, 3, batch_first=True, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.gru(x)[0]
        return states[:, -1]


@pytest.mark.parametrize(
    ("make", "last", "search"),
    [
        pytest.param(lambda: functional(output_size=3), lambda out: out[:, -1], "gradient", id="ours"),
        pytest.param(Classifier, lambda out: out, "random", id="classifier"),
    ],
)
def test_a_loss_of_one_s_own(
    make: Callable[[], nn.Module], last: Callable[[Tensor], Tensor], search: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class labels, five sequences at a time, of which the last batch has fewer."""
    monkeypatch.setattr(module_errors, "_SEQUENCES", 5)
    model, (x, _) = make(), data()
    labels = torch.arange(len(x)) % 3

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(last(outputs), targets)

    options: dict[str, Any] = {"radii": [0.0, 0.3], "directions": 2, "search": search, "metric": loss}
    curve = perturbation_error(model, x, labels, **options)
    directions = [random_direction(parameter_shapes(model), j) for j in range(2)]
    for r, radius in enumerate((0.0, 0.3)):
        for j, direction in enumerate(directions):
            moved = {n: v.detach() + radius * direction[n] for n, v in model.named_parameters()}
            expected = loss(torch.func.functional_call(model, moved, (x,)), labels)
            assert curve.per_direction[0, r, j].item() == pytest.approx(expected.item(), rel=RTOL)
    if curve.found is not None:
        worst = {n: v.detach() + curve.found[0][1][n] for n, v in model.named_parameters()}
        value = loss(torch.func.functional_call(model, worst, (x,)), labels).item()
        assert curve.error[0, 1].item() == pytest.approx(value, rel=RTOL)
        assert value > curve.per_direction[0, 1].max().item()
    loader = DataLoader(TensorDataset(x, labels), batch_size=4)
    assert torch.equal(perturbation_error(model, loader, **options).error, curve.error)


def test_three_lines_say_what_a_curve_is() -> None:
    curve = perturbation_error(functional(), *data(), radii=[0.0, 0.5], directions=2)
    assert repr(curve).splitlines() == [
        "PerturbationCurve: 1 model, 2 radii, 2 directions",
        f"largest error: {curve.error[0, 0]:.3g} at 0, {curve.error[0, 1]:.3g} at 0.5",
        "diverged: 0 of 2",
    ]


def test_several_models_of_different_width() -> None:
    x, y = data()
    models = [functional(3), functional(6, nonlinearity="linear"), Wrapped(nn.RNN)]
    together = perturbation_error(models, x, y, radii=RADII, directions=4)
    assert together.per_direction.shape == (3, 3, 4) and together.error.shape == (3, 3)
    for m, model in enumerate(models):
        alone = perturbation_error(model, x, y, radii=RADII, directions=4)
        assert torch.equal(together.per_direction[m], alone.per_direction[0])


def test_models_of_different_width_are_one_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call of the sweep for all diagonal models of one nonlinearity, whatever their width: the same numbers."""
    x, y = data()
    models = [functional(3), functional(9), functional(6, recurrence="dense"), functional(1), functional(5)]
    alone = torch.cat([perturbation_error(m, x, y, radii=RADII, directions=4).per_direction for m in models])
    calls = []
    sweep = evaluator.sweep_errors  # type: ignore[attr-defined]

    def counted(cells: StackedCells, *rest: Any) -> Tensor:
        calls.append(cells.count)
        return sweep(cells, *rest)

    monkeypatch.setattr(evaluator, "sweep_errors", counted)
    together = perturbation_error(models, x, y, radii=RADII, directions=4)
    copies = 2 * 4 + 1  # radius zero once
    assert sorted(calls) == [copies, 4 * copies]
    torch.testing.assert_close(together.per_direction, alone, rtol=RTOL, atol=0)


def test_paper_grid_and_more_directions_keep_the_first() -> None:
    x, y = data(8, 6)
    few = perturbation_error(functional(), x, y, directions=2)
    many = perturbation_error(functional(), x, y, directions=5)
    assert few.radii.shape == (22,) and few.per_direction.shape == (1, 22, 2)
    assert torch.equal(few.per_direction, many.per_direction[..., :2])
    assert torch.equal(few.per_direction[0, 0], few.per_direction[0, 0, :1].expand(2))


def test_given_directions_are_added_as_given() -> None:
    x, y = data()
    model = functional()
    directions = [{"readout.bias": torch.tensor([2.0], dtype=torch.float64)}, {}]
    curve = perturbation_error(model, x, y, radii=RADII, directions=directions)
    expected = one_by_one(model, x, y, directions, "twe")
    torch.testing.assert_close(curve.per_direction[0], expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize(("ball", "length"), [("inf", 1.0), ("l2", 0.5)])
def test_slow_search(ball: str, length: float) -> None:
    """Four rates are moved by the radius each, or by the radius together."""
    x, y = data()
    model = functional(parameterization="inverse")
    curve = perturbation_error(model, x, y, radii=RADII, search="slow", ball=ball)
    directions = [{name: length * value for name, value in slow_direction(model).items()}]
    expected = one_by_one(model, x, y, directions, "twe")
    torch.testing.assert_close(curve.per_direction[0], expected, rtol=RTOL, atol=0)


@pytest.mark.parametrize("ball", ["inf", "l2"])
@pytest.mark.parametrize("make", [MODELS[k] for k in (0, 2, 3, 4, 5, 8, 9, 10)])
def test_gradient_search_beats_random_and_slow_and_stays_in_the_ball(make: Any, ball: str) -> None:
    model, (x, y) = make(), data(12, 10)
    options: dict[str, Any] = {"radii": RADII, "directions": 4, "ball": ball}
    worst = perturbation_error(model, x, y, search="gradient", **options)
    assert bool((worst.error >= worst.per_direction.amax(-1)).all())
    if not isinstance(model, Wrapped):
        slow = perturbation_error(model, x, y, search="slow", **options)
        assert bool((worst.error >= slow.error * (1 - RTOL)).all())
    assert worst.error[0, 2] > 1.2 * worst.per_direction[0, 2].max()
    assert worst.found is not None
    for r, radius in enumerate(RADII):
        for value in worst.found[0][r].values():
            size = norm(value, ball)
            assert size.item() <= radius * (1 + 1e-12)
    found = [{name: value / RADII[2] for name, value in worst.found[0][2].items()}]
    again = perturbation_error(model, x, y, radii=[RADII[2]], directions=found)
    assert again.error.item() == pytest.approx(worst.error[0, 2].item(), rel=1e-9)


@pytest.mark.parametrize("nonlinearity", ["linear", "relu"])
def test_overflow_counts_as_infinite_and_stays_at_its_radius(nonlinearity: str) -> None:
    model = functional(nonlinearity=nonlinearity, parameterization="direct", discretization="euler")
    x, y = data(8, 40)
    direction = {"rnn.rate_l0": -torch.ones(4, dtype=torch.float64), "rnn.bias_l0": torch.ones(4, dtype=torch.float64)}
    curve = perturbation_error(model, x, y, radii=[0.0, 1e12, 0.1], directions=[direction])
    assert curve.diverged.tolist() == [[False, True, False]]
    assert curve.error[0, 1] == math.inf and bool(curve.error[0, ::2].isfinite().all())
    assert curve.running_max[0].isfinite().tolist() == [True, False, True]  # ordered by radius


def test_float32_overflow_is_computed_again_in_float64() -> None:
    model = functional(nonlinearity="relu", parameterization="direct", discretization="euler")
    x, y = data(8, 40)
    direction = {"rnn.rate_l0": -torch.ones(4, dtype=torch.float64), "rnn.bias_l0": torch.ones(4, dtype=torch.float64)}
    options: dict[str, Any] = {"radii": [20.0], "directions": [direction]}
    wide = perturbation_error(model, x, y, **options)
    narrow = perturbation_error(model, x, y, dtype=torch.float32, **options)
    assert wide.error.item() > torch.finfo(torch.float32).max
    assert narrow.error.item() == pytest.approx(wide.error.item(), rel=1e-4)


def test_float32_models() -> None:
    x, y = data()
    model = functional()
    wide = perturbation_error(model, x, y, radii=RADII, directions=3)
    narrow = perturbation_error(model.float(), x.float(), y.float(), radii=RADII, directions=3)
    assert narrow.error.dtype == torch.float64
    # 15 steps of a few roundings, doubled by the square, against parameters rounded once.
    torch.testing.assert_close(narrow.per_direction, wide.per_direction, rtol=1e-5, atol=0)


def test_without_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    fused = perturbation_error(functional(), x, y, radii=RADII, directions=3)
    monkeypatch.setitem(INSTALLED, "numba", False)
    plain = perturbation_error(functional(), x, y, radii=RADII, directions=3)
    torch.testing.assert_close(plain.per_direction, fused.per_direction, rtol=RTOL, atol=0)


def test_chunks_of_our_models_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = data()
    whole = perturbation_error(functional(), x, y, radii=RADII, directions=3)
    monkeypatch.setattr("cofm_triton.perturbation.copies._CHUNK_NUMBERS", 50)
    split = perturbation_error(functional(), x, y, radii=RADII, directions=3)
    torch.testing.assert_close(split.per_direction, whole.per_direction, rtol=RTOL, atol=0)


class Attending(nn.Module):
    """A transformer layer between two linear ones."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(1, 8, dtype=torch.float64)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dtype=torch.float64)
        self.readout = nn.Linear(8, 1, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.layer(self.encoder(x)))


@pytest.mark.parametrize("make", [lambda: Wrapped(nn.GRU), Attending, Branching], ids=["nn.GRU", "transformer", "loop"])
@pytest.mark.parametrize("search", ["random", "gradient"])
def test_memory_limit_changes_chunks_only(make: Any, search: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model, (x, y) = make(), data(6, 5)
    monkeypatch.setattr("cofm_triton.perturbation.curve.ascend", partial(ascend, steps=2))
    options: dict[str, Any] = {"radii": RADII, "directions": 3, "search": search}
    plain = perturbation_error(model, x, y, **options)
    tight = perturbation_error(model, x, y, memory_limit=least_limit(model, x, y, search), **options)
    torch.testing.assert_close(tight.per_direction, plain.per_direction, rtol=RTOL, atol=0)
    torch.testing.assert_close(tight.error, plain.error, rtol=RTOL, atol=0)


def least_limit(model: nn.Module, x: Tensor, y: Tensor, search: str) -> int:
    """The memory limit that the error message asks for."""
    with pytest.raises(ValueError, match="memory_limit must be at least") as caught:
        perturbation_error(model, x, y, radii=RADII, directions=3, search=search, memory_limit=1)
    least = int(str(caught.value).split()[5])
    if search == "gradient":  # the backward pass of an ascent takes more
        with pytest.raises(ValueError, match="memory_limit must be at least") as caught:
            perturbation_error(model, x, y, radii=RADII, directions=3, search=search, memory_limit=least)
        least = int(str(caught.value).split()[5])
    return least


def curve_of(errors: list[list[float]], radii: list[float]) -> PerturbationCurve:
    per_direction = torch.tensor(errors, dtype=torch.float64)[None]
    error = per_direction.amax(-1)
    return PerturbationCurve(torch.tensor(radii, dtype=torch.float64), per_direction, error, error.isinf())


def test_summaries() -> None:
    curve = curve_of([[1.0, 2.0, 6.0], [5.0, 1.0, 3.0], [2.0, math.inf, 4.0]], [0.0, 0.1, 0.2])
    assert curve.mean.tolist() == [[3.0, 3.0, math.inf]]
    assert curve.quantile(0.5).tolist() == [[2.0, 3.0, 4.0]]
    assert curve.quantile(0.25).tolist() == [[1.5, 2.0, 3.0]]
    assert curve.quantile(1.0).tolist() == [[6.0, 5.0, math.inf]]
    assert curve.quantile(0.75).tolist() == [[4.0, 4.0, math.inf]]
    assert curve.running_max.tolist() == [[6.0, 6.0, math.inf]]
    with pytest.raises(ValueError, match=r"q must be in \[0, 1\]"):
        curve.quantile(1.5)


def test_csv_holds_every_error_exactly(tmp_path: Path) -> None:
    x, y = data()
    curve = perturbation_error([functional(), functional(5)], x, y, radii=RADII, directions=2)
    curve.to_csv(tmp_path / "curve.csv")
    with open(tmp_path / "curve.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * 2
    for row in rows:
        m, r, j = int(row["model"]), RADII.index(float(row["radius"])), int(row["direction"])
        assert float(row["error"]) == curve.per_direction[m, r, j].item() and row["diverged"] == "0"
    assert [path.name for path in tmp_path.iterdir()] == ["curve.csv"]


def test_csv_of_a_divergence_and_of_an_ascent(tmp_path: Path) -> None:
    curve_of([[1.0, math.inf]], [0.5]).to_csv(tmp_path / "a.csv")
    assert (tmp_path / "a.csv").read_text().splitlines() == [
        "model,radius,direction,error,diverged",
        "0,0.5,0,1.0,0",
        "0,0.5,1,inf,1",
    ]
    x, y = data(4, 4)
    worst = perturbation_error(functional(), x, y, radii=[0.1], directions=1, search="gradient")
    worst.to_csv(tmp_path / "b.csv")
    last = (tmp_path / "b.csv").read_text().splitlines()[-1].split(",")
    assert last[2] == "found" and float(last[3]) == worst.error.item()


def test_plot(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    curve = curve_of([[1.0, 2.0], [2.0, 3.0], [3.0, math.inf]], [0.0, 0.1, 0.2])
    axes = curve.plot(tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert curve.plot(axes) is axes
    curve.plot(tmp_path / "curve.svg")
    assert "<svg" in (tmp_path / "curve.svg").read_text()


class TimeFirst(nn.Module):
    """Reads (N, T, d) as (T, N, d), and does not say so."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(1, 3)
        self.readout = nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.readout(self.core(x)[0])


def test_modules_that_mix_sequences_are_refused() -> None:
    x, y = data(4, 5)
    with pytest.raises(ValueError, match=r"models must map every sequence .* batch_first=True"):
        perturbation_error(TimeFirst().double(), x, y, directions=1)
    with pytest.raises(ValueError, match=r"model must map every sequence .* batch_first=True"):
        memory_function(TimeFirst(), 5, input_size=1)


def test_memory_is_measured_once_per_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def counted(*arguments: Any, **options: Any) -> tuple[int, int]:
        calls.append(1)
        return fitting(*arguments, **options)

    monkeypatch.setattr(module_errors, "fitting", counted)
    x, y = data(4, 5)
    for model in (nn.GRU(1, 1, batch_first=True).double(), functional(num_layers=2, recurrence="dense")):
        calls.clear()
        curve = perturbation_error(model, x, y, radii=[0.0, 0.1], directions=2, search="gradient")
        assert bool((curve.error >= curve.per_direction.amax(-1)).all())
        assert len(calls) == 2  # for errors, and for their gradients


def test_a_list_of_modules_is_a_family() -> None:
    x, y = data(4, 4)
    models = [functional(), functional(5)]
    curves = [perturbation_error(family, x, y, directions=1) for family in (models, nn.ModuleList(models))]
    assert torch.equal(curves[0].per_direction, curves[1].per_direction)


def test_numbers_of_numpy() -> None:
    x, y = data(4, 4)
    options: dict[str, Any] = {"directions": np.int64(2), "seed": np.uint32(1), "radii": np.array([0.0, 0.1])}
    curve = perturbation_error(functional(), x, y, **options)
    same = perturbation_error(functional(), x, y, directions=2, seed=1, radii=[0.0, 0.1])
    assert torch.equal(curve.per_direction, same.per_direction)


def test_the_largest_gap_of_many_sequences() -> None:
    """More than are computed at a time; and what the call changes in PyTorch is changed back."""
    torch.manual_seed(0)
    model, (x, y) = Wrapped(nn.RNN), data(600, 5)
    directions = [random_direction(parameter_shapes(model), 0)]
    before = torch.backends.mha.get_fastpath_enabled()
    curve = perturbation_error(model, x, y, radii=RADII, directions=directions, metric="sup")
    expected = one_by_one(model, x, y, directions, "sup")
    torch.testing.assert_close(curve.per_direction[0], expected, rtol=RTOL, atol=0)
    assert torch.backends.mha.get_fastpath_enabled() == before


def test_progress() -> None:
    calls = []
    x, y = data(4, 4)
    models = [functional(), functional(5)]
    perturbation_error(models, x, y, directions=1, progress=lambda *step: calls.append(step))
    assert calls[-1] == (44, 44)  # two models at 22 radii


X, Y = torch.zeros(2, 3, 1, dtype=torch.float64), torch.zeros(2, 3, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"models": []}, ValueError, "models must hold at least one"),
        ({"models": [3]}, TypeError, "models must be a torch.nn.Module"),
        ({"models": None}, TypeError, "models must be a torch.nn.Module"),
        ({"models": nn.RNN}, TypeError, "models must be a torch.nn.Module"),
        ({"models": nn.RNN(1, 1).double()}, ValueError, "models must take .* batch_first=True"),
        ({"models": StableRNN(1, 1, dtype=torch.float64)}, ValueError, "models must take .* batch_first=True"),
        ({"models": nn.Identity()}, ValueError, "models must have parameters"),
        ({"models": functional().float()}, TypeError, "models must have the dtype"),
        ({"models": nn.Linear(1, 2, dtype=torch.float64)}, ValueError, "targets must have the shape"),
        ({"models": nn.Flatten()}, ValueError, "models must map"),
        ({"inputs": None}, TypeError, "inputs must be a torch.Tensor"),
        ({"inputs": X.half()}, TypeError, "inputs must be float32 or float64"),
        ({"inputs": X[0]}, ValueError, "inputs must have three dimensions"),
        ({"inputs": X[:0]}, ValueError, "inputs must have three dimensions"),
        ({"inputs": X / 0}, ValueError, "inputs must be finite"),
        ({"targets": Y[:1]}, ValueError, "targets must have the N and T"),
        ({"targets": Y.float()}, TypeError, "targets must have the dtype"),
        ({"radii": [-1.0]}, ValueError, "radii must be finite and not negative"),
        ({"radii": [math.nan]}, ValueError, "radii must be finite"),
        ({"radii": []}, ValueError, "radii must be a non-empty list"),
        ({"radii": [[1.0]]}, ValueError, "radii must be a non-empty list"),
        ({"radii": "a"}, TypeError, "radii must be a list of numbers"),
        ({"radii": [[1.0], [1.0, 2.0]]}, TypeError, "radii must be a list of numbers"),
        ({"radii": torch.tensor([1j])}, TypeError, "radii must be real"),
        ({"radii": [True]}, TypeError, "radii must be real"),
        ({"radii": [0.1, True]}, TypeError, "radii must be a list of numbers"),
        ({"directions": 0}, ValueError, "directions must be at least 1"),
        ({"directions": True}, TypeError, "directions must be a count"),
        ({"directions": []}, ValueError, "directions must hold at least one"),
        ({"directions": [3]}, TypeError, "directions must hold dicts"),
        ({"directions": [{"nothing": Y}]}, ValueError, "directions name parameters"),
        ({"directions": [{"readout.bias": 1.0}]}, TypeError, "directions must hold real tensors"),
        ({"directions": [{"readout.bias": torch.zeros(1) * 1j}]}, TypeError, "directions must hold real tensors"),
        ({"directions": [{"readout.bias": torch.tensor([math.nan])}]}, ValueError, "directions must be finite"),
        ({"directions": [{"readout.bias": torch.tensor([2.0])}], "search": "gradient"}, ValueError, "unit ball"),
        ({"directions": [{"readout.bias": Y}]}, ValueError, "directions must have the parameters' shapes"),
        ({"seed": -1}, ValueError, "seed must be"),
        ({"seed": 1.5}, TypeError, "seed must be an int"),
        ({"seed": None}, TypeError, "seed must be an int"),
        ({"search": "grid"}, ValueError, "search must be one of"),
        ({"search": "slow", "models": Branching()}, ValueError, "model must hold a cofm"),
        ({"ball": "l1"}, ValueError, "ball must be one of"),
        ({"metric": "mae"}, ValueError, "metric must be one of"),
        ({"metric": lambda outputs, targets: (outputs - targets).square()}, TypeError, "metric must return one real"),
        ({"metric": lambda outputs, targets: 1.0}, TypeError, "metric must return one real number.* got float"),
        ({"metric": torch.dist, "targets": Y[:1]}, ValueError, "targets must have N ="),
        ({"targets": torch.zeros(len(X))}, ValueError, "labels and last steps take a loss of yours"),
        ({"targets": None}, TypeError, "targets must be a torch.Tensor, got None"),
        ({"inputs": [(X, Y)]}, TypeError, "inputs must be a torch.Tensor, or a loader without targets"),
        ({"inputs": [X], "targets": None}, TypeError, "inputs must be a loader of pairs"),
        ({"inputs": [(X, 1.0)], "targets": None}, TypeError, "targets must be a torch.Tensor, got float"),
        ({"metric": torch.ones(X.shape[1] + 1)}, ValueError, "metric must have the shape"),
        ({"metric": -torch.ones(X.shape[1])}, ValueError, "metric must be finite, none negative"),
        ({"memory_limit": 0}, ValueError, "memory_limit must be at least 1"),
        ({"memory_limit": 1e9}, TypeError, "memory_limit must be a number of bytes"),
        ({"memory_limit": True}, TypeError, "memory_limit must be a number of bytes"),
        ({"dtype": torch.float16}, TypeError, "dtype must be torch.float32"),
    ],
)
def test_errors_name_the_argument(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"models": functional(), "inputs": X, "targets": Y, **changes}
    with pytest.raises(error, match=message):
        perturbation_error(**arguments)


@pytest.mark.parametrize(
    ("values", "finite"),
    [([1e308, 1e308], True), ([1.0, torch.inf], False), ([torch.inf, -torch.inf], False), ([torch.nan, 1.0], False)],
)
def test_only_infinity_and_nan_are_not_finite(values: list[float], finite: bool) -> None:
    assert evaluator._is_finite(torch.tensor(values, dtype=torch.float64)) == finite
