"""Kernels of gated linear recurrences: blocks of rows and what they leave, blocks of channels, odd strides, packed."""

from __future__ import annotations

import pytest
import torch
from scan_cases import gated_problem

from cofm_triton.ops.backends import INSTALLED, interpreting
from cofm_triton.step.gates import GATES

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)


@pytest.mark.parametrize("gates", GATES)
@pytest.mark.parametrize("turning", [False, True])
@pytest.mark.parametrize("length", [1, 8, 13])
@pytest.mark.parametrize("reset_to", [None, "h0", "zero"])
def test_within_bounds(reset_to: str | None, length: int, turning: bool, gates: str) -> None:
    gated_problem(1, length, 6, gates=gates, turning=turning, reset_to=reset_to).check("triton")


def test_wide_and_strided() -> None:
    gated_problem(1, 9, 130, dtype=torch.bfloat16, turning=True, states=False).strided().check("triton")


def test_packed() -> None:
    gated_problem(1, 13, 6, dtype=torch.float64, gates="minlstm", starts=[0, 7, 7, 9], reset_to="h0").check("triton")
