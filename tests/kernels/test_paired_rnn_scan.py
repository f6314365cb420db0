"""Kernels of pairs of channels: blocks of every width, blocks of time that are read ahead, odd strides."""

from __future__ import annotations

import pytest
import torch
from scan_cases import paired_problem

from cofm_triton.ops import paired_rnn_scan
from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)


# An H100's 132 multiprocessors leave blocks of 64 channels, one of them leaves blocks of 128.
@pytest.mark.parametrize(("num_sms", "dtype"), [(132, torch.float32), (132, torch.bfloat16), (1, torch.float32)])
@pytest.mark.parametrize("length", [11, 25])
def test_blocks(length: int, num_sms: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a block of rows, whole blocks, and what is left of them: every row read ahead is the right one."""
    monkeypatch.setattr(paired_rnn_scan, "num_sms", lambda device: num_sms)
    paired_problem(1, length, 66, dtype=dtype).check("triton")


@pytest.mark.parametrize("nonlinearity", ["linear", "tanh", "relu"])
def test_nonlinearities_and_strides(nonlinearity: str) -> None:
    paired_problem(2, 15, 3, nonlinearity=nonlinearity, parameterization="softplus").strided().check("triton")


def test_packed() -> None:
    paired_problem(1, 24, 3, nonlinearity="tanh", starts=[0, 7, 7, 20]).check("triton")
