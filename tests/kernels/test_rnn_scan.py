"""The nonlinear scan's kernels: narrow blocks of channels, and blocks of time that are read ahead."""

from __future__ import annotations

import pytest
import torch
from scan_cases import rnn_case

from cofm_triton.ops import rnn_scan
from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)


# An H100's 132 multiprocessors leave 256 channels in blocks of 32, 9 of them leave bfloat16 in blocks of 64.
@pytest.mark.parametrize(("num_sms", "dtype"), [(132, torch.float32), (132, torch.bfloat16), (9, torch.bfloat16)])
@pytest.mark.parametrize("length", [11, 24, 77, 168])  # blocks have 24 rows forward and 14 backward
def test_narrow_blocks(length: int, num_sms: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Less than a block of rows, whole blocks, and what is left of them: every row read ahead is the right one."""
    monkeypatch.setattr(rnn_scan, "num_sms", lambda device: num_sms)
    rnn_case(1, length, 100 if length == 77 else 256, dtype=dtype, nonlinearity="hardtanh").check("triton")


@pytest.mark.parametrize("length", [6, 7, 48, 84])  # blocks have 12 rows forward and 7 backward
def test_full_blocks(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rnn_scan, "num_sms", lambda device: 1)
    rnn_case(2, length, 130, nonlinearity="relu").check("triton")
