"""Figures of memory functions: what is drawn, and files that are whole."""

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.memory.function import MemoryFunction, memory_function, plot_memory
from cofm_triton.memory.sweep import memory_sweep

matplotlib = pytest.importorskip("matplotlib")


def model() -> RNNFunctional:
    torch.manual_seed(0)
    return RNNFunctional(1, 8, max_time_scale=20.0, bias=False, dtype=torch.float64)


def labels(axes: "matplotlib.axes.Axes") -> list[str]:  # type: ignore[name-defined]
    legend = axes.get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_memory_with_fit_and_bound() -> None:
    from matplotlib.figure import Figure

    axes = Figure().subplots()
    memory = memory_function(model(), 200)
    assert memory.plot(axes) is axes
    memory_line, fit, bound = axes.get_lines()
    assert np.asarray(memory_line.get_ydata()).tolist() == memory.values.tolist()
    assert np.asarray(fit.get_xdata())[0] == memory.fit().window[0]
    assert np.asarray(bound.get_ydata())[0] == pytest.approx(memory.values[0].item())
    assert [text.split()[0] for text in labels(axes)] == ["memory", "fit:", "theorem:"]
    assert axes.get_yscale() == "log" and axes.get_xlabel() and axes.get_ylabel()


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_files(tmp_path: Path, suffix: str) -> None:
    memory_function(model(), 40).plot(tmp_path / f"memory.{suffix}")
    memory_sweep(model(), 40, radii=[0.0, 0.1], directions=3).plot(tmp_path / f"sweep.{suffix}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"memory.{suffix}", f"sweep.{suffix}"]
    assert all(path.stat().st_size > 1000 for path in tmp_path.iterdir())


def test_several_on_one_pair_of_axes(tmp_path: Path) -> None:
    """Each with its name, its law, and its fit in its colour; a short one does not cut off a long one."""
    from matplotlib.figure import Figure

    known = memory_function(model(), 600)
    t = known.times
    power = MemoryFunction((1 + t) ** -1.5, known.argmax, known.settings)
    exponential = MemoryFunction(torch.exp(-0.01 * t), known.argmax, known.settings)
    axes = Figure().subplots()
    plot_memory({"power": power, "exponential": exponential, "short": memory_function(model(), 3)}, axes)
    first, fit, second, other, third = axes.get_lines()
    assert first.get_color() == fit.get_color() != second.get_color() == other.get_color() != third.get_color()
    assert labels(axes) == [
        "power: t^-1.5 [1.5, 1.5]",
        "exponential: exp(-0.01 t) [0.01, 0.01]",
        "short: too short",
    ]
    assert axes.get_xlim()[1] == 599 and axes.get_xscale() == "symlog"
    plot_memory({"power": power}, tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size > 1000
    noise = torch.rand(600, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    unclear = MemoryFunction(torch.exp(-0.005 * t - noise), known.argmax, known.settings)
    unclear.plot(axes, label="noise")
    assert not unclear.fit().is_clear and labels(axes)[-1] == "noise: undecided"


def test_what_has_no_memory_is_refused() -> None:
    with pytest.raises(TypeError, match="memories must be a dict"):
        plot_memory(cast(Any, [1]), "x.png")
    with pytest.raises(ValueError, match="memories must hold at least one"):
        plot_memory({}, "x.png")


def test_three_lines_say_what_a_memory_function_is() -> None:
    lines = repr(memory_function(model(), 200)).splitlines()
    assert [line.split(":")[0] for line in lines] == ["MemoryFunction", "largest", "fit"]
    assert "200 values to t = 199, |x| from 9.5e-07 to 1, norm inf" in lines[0]
    assert repr(memory_function(model(), 3)).endswith("fit: too short a record")


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
