"""Figures of memory functions: what is drawn, and files that are whole."""

from pathlib import Path

import pytest
import torch

from cofm_triton.layers.stable_rnn import RNNFunctional
from cofm_triton.memory.function import memory_function
from cofm_triton.memory.sweep import memory_sweep

matplotlib = pytest.importorskip("matplotlib")


def model() -> RNNFunctional:
    torch.manual_seed(0)
    return RNNFunctional(1, 8, max_time_scale=20.0, bias=False, dtype=torch.float64)


def labels(axes: "matplotlib.axes.Axes") -> list[str]:
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_memory_with_fit_and_bound() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    memory = memory_function(model(), 200)
    assert memory.plot(axes) is axes
    memory_line, fit, bound = axes.get_lines()
    assert memory_line.get_ydata().tolist() == memory.values.tolist()
    assert fit.get_xdata()[0] == memory.fit().window[0]
    assert bound.get_ydata()[0] == pytest.approx(memory.values[0].item())
    assert [text.split()[0] for text in labels(axes)] == ["memory", "fit:", "theorem:"]
    assert axes.get_yscale() == "log" and axes.get_xlabel() and axes.get_ylabel()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files(tmp_path: Path, suffix: str) -> None:
    memory_function(model(), 40).plot(tmp_path / f"memory.{suffix}")
    memory_sweep(model(), 40, radii=[0.0, 0.1], directions=3).plot(tmp_path / f"sweep.{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"memory.{suffix}", f"sweep.{suffix}"]
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


def test_records_without_fit_and_infinite_values() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    memory_function(model(), 3).plot(axes)
    assert len(axes.get_lines()) == 2
    growing = RNNFunctional(1, 2, nonlinearity="linear", parameterization="direct", dtype=torch.float64)
    with torch.no_grad():
        growing.rnn.rate_l0.fill_(-2.0)
    axes = Figure().subplots()
    memory_function(growing, 600).plot(axes)
    assert all(limit > 0 for limit in axes.get_ylim())


def test_a_sweep_shows_five_radii_and_their_bands() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    memory_sweep(model(), 30, radii=[0.01 * i for i in range(9)], directions=3).plot(axes)
    assert labels(axes) == [f"radius {radius:.3g}" for radius in (0, 0.02, 0.04, 0.06, 0.08)]
    assert len(axes.collections) == 5


def test_growth_leaves_room_for_the_curves_that_decay() -> None:
    """A radius whose memory grows without bound must not push the others out of the picture."""
    from matplotlib.figure import Figure

    torch.manual_seed(0)
    unstable = RNNFunctional(1, 4, nonlinearity="linear", parameterization="direct", dtype=torch.float64)
    sweep = memory_sweep(unstable, 2000, radii=[0.0, 1.0], directions=3)
    assert sweep.upper[1].max() > 1e50
    axes = Figure().subplots()
    sweep.plot(axes)
    low, high = axes.get_ylim()
    assert low <= sweep.upper[0, 0] <= high <= 1e7 * sweep.upper[:, 0].max()
    assert (sweep.upper[0] > low).float().mean() > 0.01
