"""Figures: labels of logarithmic axes, and the files they are written to."""

from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from cofm_triton.support.figure_file import draw, log_ticks


def test_labels_between_powers_of_ten_are_plain_numbers() -> None:
    axes = Figure().subplots()
    axes.loglog([1, 1000], [1.1, 1.29])
    log_ticks(axes)
    axes.set_ylim(0.9, 3.2)
    axes.figure.draw_without_rendering()  # type: ignore[union-attr]  # the stubs allow for a figure that is gone
    assert [label.get_text() for label in axes.get_yticklabels() if label.get_position()[1] in (1, 2, 3)] == [*"123"]
    assert [label.get_text() for label in axes.get_xticklabels() if label.get_position()[0] == 1] == [
        r"$\mathdefault{10^{0}}$"
    ]


def test_linear_axes_keep_their_ticks() -> None:
    axes = Figure().subplots()
    axes.plot([0, 5], [0, 5])
    before = axes.get_xticks().tolist(), axes.get_yticks().tolist()
    log_ticks(axes)
    assert (axes.get_xticks().tolist(), axes.get_yticks().tolist()) == before


@pytest.mark.parametrize("name", ["x", "x.", ".png", "x.txt"])
def test_files_without_a_format_are_refused(name: str, tmp_path: Path) -> None:
    """matplotlib would choose one, and write another file than was asked for."""
    with pytest.raises(ValueError, match=r"path_or_axes must end with a format, such as \.png"):
        draw(tmp_path / name, lambda axes: axes.plot([1, 2]))
    assert not list(tmp_path.iterdir())
