"""The table of iterations of Newton's method: bench/newton.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import newton
from cofm_triton.ops.newton import Newton


@pytest.mark.parametrize(("found", "expected"), [((3, 5, 4), 5), ((3, None, 4), None)])
def test_the_most_iterations_of_all_seeds(
    monkeypatch: pytest.MonkeyPatch, found: tuple[int | None, ...], expected: int | None
) -> None:
    counts, inputs = iter(found), []

    def scan(x: torch.Tensor, *rest: Any, **options: Any) -> Newton:
        inputs.append(x)
        count = next(counts)
        return Newton(x, count) if count is not None else Newton(None, 20)

    monkeypatch.setattr(newton, "newton_scan", scan)
    assert newton.iterations("tanh", 7, 0.1, 2.0) == expected
    assert all(x.shape == (1, 7, newton.CHANNELS) for x in inputs)
    assert len(inputs) < 2 or not torch.equal(*inputs[:2])


def test_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """One per nonlinearity and size, a count per step and length; a handful for small steps, none beyond."""
    for name, value in {"LENGTHS": (20, 300), "STEPS": (0.01, 2.5), "SEEDS": 1}.items():
        monkeypatch.setattr(newton, name, value)
    head, rule, *rows = newton.rows()
    assert head.count("|") == rule.count("|") == 5 and "dt rate = 0.01" in head
    cells = {tuple(row.split(" | ")[:2]): row.strip("| ").split(" | ")[2:] for row in rows}
    assert list(cells) == [(f"| {name}", f"{size:g}") for name in newton.NONLINEARITIES for size in newton.SIZES]
    for small, _ in cells.values():
        assert max(map(int, small.split(", "))) <= 12
    assert cells["| tanh", "10"][-1].endswith(", -") and cells["| hardtanh", "10"][-1].endswith(", -")
