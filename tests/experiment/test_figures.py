import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from cofm_triton.experiment import figures as plotting
from cofm_triton.experiment.figures import (
    ErrorCurve,
    LossCurve,
    RadiusCurve,
    RatioCloud,
    SweepCurve,
    plot_errors,
    plot_learning_rates,
    plot_radii,
    plot_ratios,
    plot_sweeps,
)

SVG = "{http://www.w3.org/2000/svg}"


def error_curve(row: str, column: str, width: int, scale: float = 1.0) -> ErrorCurve:
    radii = [0.0, 0.001, 0.01, 1.0]
    values = [1e-4 * scale, 1e-3 * scale, 1.0, math.inf]
    return ErrorCurve(row, column, width, radii, values, values, values, values)


def radius_curve(column: str, label: str, radii: list[float]) -> RadiusCurve:
    return RadiusCurve("", column, label, [100, 200, 400], radii)


def draw_errors(paths: list[Path]) -> None:
    curves = [error_curve(r, c, m, m) for r in "ab" for c in ("direct", "exp") for m in (8, 16)]
    plot_errors(curves, "Errors", paths)


def draw_radii(paths: list[Path]) -> None:
    curves = [
        radius_curve("linear", "direct", [0.01, 0.005, 0.0]),
        radius_curve("linear", "exp", [0.5, 0.5, 0.5]),
    ]
    plot_radii(curves, "Radii", paths)


def draw_sweeps(paths: list[Path]) -> None:
    radii, values = [0.0, 0.001, 0.01, 1.0], [1e-4, 1e-3, 1.0, math.inf]
    curves = [SweepCurve(f"model {i}", radii, values, values, values, values, values) for i in range(4)]
    plot_sweeps(curves, "Sweeps", paths)


def draw_ratios(paths: list[Path]) -> None:
    names = ("direct", "exp", "lru", "inverse")
    plot_ratios([RatioCloud(n, k, [1.0, 0.1], [2.0, 3.0], [4.0, 5.0]) for n in names for k in "ab"], "Ratios", paths)


def draw_learning_rates(paths: list[Path]) -> None:
    curves = [LossCurve("real", name, [0.01, 0.1, 1.0], [0.5, 0.1, math.inf]) for name in ("direct", "exp")]
    plot_learning_rates(curves, "Learning rates", paths)


@pytest.mark.parametrize("draw", [draw_errors, draw_radii, draw_sweeps, draw_ratios, draw_learning_rates])
def test_writes_whole_png_and_svg_with_equal_bytes_each_time(
    tmp_path: Path, draw: Callable[[list[Path]], None]
) -> None:
    for folder in ("one", "two"):
        draw([tmp_path / folder / "f.png", tmp_path / folder / "f.svg"])
    for name in ("f.png", "f.svg"):
        data = (tmp_path / "one" / name).read_bytes()
        assert data == (tmp_path / "two" / name).read_bytes()
    assert (tmp_path / "one" / "f.png").read_bytes().startswith(b"\x89PNG\r\n")
    root = ElementTree.fromstring((tmp_path / "one" / "f.svg").read_bytes())
    assert root.tag == SVG + "svg"
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == ["f.png", "f.svg"]


def test_every_panel_holds_its_curves(tmp_path: Path) -> None:
    draw_errors([tmp_path / "f.svg"])
    root = ElementTree.parse(tmp_path / "f.svg").getroot()
    panels = [g for g in root.iter(SVG + "g") if g.get("id", "").startswith("axes_")]
    assert len(panels) == 4
    for panel in panels:
        lines = [g for g in panel.iter(SVG + "g") if g.get("id", "").startswith("line2d_")]
        # 2 widths, each maximum and slow direction, and the zero model, beside the ticks' lines.
        assert len(lines) >= 5


def test_radii_that_are_all_zero_leave_an_empty_panel(tmp_path: Path) -> None:
    plot_radii([radius_curve("linear", "direct", [0.0, 0.0, 0.0])], "Radii", [tmp_path / "f.png"])
    assert (tmp_path / "f.png").stat().st_size > 1000


def test_radius_zero_alone_leaves_an_empty_panel(tmp_path: Path) -> None:
    plot_sweeps([SweepCurve("model", [0.0], [0.5], [0.5], [0.5])], "Sweep", [tmp_path / "f.png"])
    assert (tmp_path / "f.png").stat().st_size > 1000


@pytest.mark.parametrize("plot", [plot_errors, plot_radii, plot_sweeps])
def test_nothing_to_plot_is_an_error(tmp_path: Path, plot: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="curves must hold at least one curve"):
        plot([], "title", [tmp_path / "f.png"])


@pytest.mark.parametrize("models", [1, 2, 3])
def test_no_legend_is_wider_than_its_figure(models: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr("cofm_triton.experiment.figures.save_figure", lambda figure, paths: figures.append(figure))
    radii, values = [0.001, 1.0], [1e-4, 1.0]
    curves = [SweepCurve(f"model {i}", radii, values, values, values, values, values) for i in range(models)]
    plot_sweeps(curves, "Sweeps", [tmp_path / "sweeps.png"])
    (legend,) = figures[0].legends
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= figures[0].bbox.width and box.y0 >= 0


@pytest.mark.parametrize("radii", [[0.33, 0.34, 0.35], [0.05, 0.5, 0.7], [0.001, 0.1, 0.9]])
def test_every_axis_shows_two_numbers_or_more(
    radii: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plotting, "save_figure", lambda figure, paths: figures.append(figure))
    plot_radii([radius_curve("linear", "exp", radii)], "Radii", [])
    curve = SweepCurve("model", [0.1, 0.15, 0.2], radii, radii, radii)
    plot_sweeps([curve], "Sweeps", [])
    for figure in figures:
        figure.canvas.draw()
        for axis in (figure.axes[0].xaxis, figure.axes[0].yaxis):
            low, high = axis.get_view_interval()
            assert sum(low <= tick <= high for tick in axis.get_majorticklocs()) >= 2
            assert all(label.get_text() for label in axis.get_majorticklabels())


def test_long_titles_fit_the_figure() -> None:
    figure, _ = plotting._grid(1, 2, "how far the recurrent weights can slow down before a model fails " * 3)
    figure.canvas.draw()
    assert figure._suptitle is not None  # type: ignore[attr-defined]  # it has no public name
    box = figure._suptitle.get_window_extent()  # type: ignore[attr-defined]  # as above
    assert box.x0 >= 0 and box.x1 <= figure.bbox.width
