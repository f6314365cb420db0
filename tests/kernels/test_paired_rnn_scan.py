"""Kernels of pairs of channels: blocks of every width, blocks of time that are read ahead, odd strides."""

from __future__ import annotations

import pytest
import torch
from scan_cases import device_of, paired_problem

from cofm_triton.ops import paired_rnn_scan
from cofm_triton.ops.backends import INSTALLED, interpreting

if not INSTALLED["triton"] or not (torch.cuda.is_available() or interpreting()):
    pytest.skip("triton cannot run here", allow_module_level=True)

from cofm_triton.kernels.paired_rnn_scan import _in_pairs


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


@pytest.mark.parametrize("copied", [False, True])
def test_pairs_at_addresses_of_their_size(copied: bool) -> None:
    """An interpreter reads any address; a GPU that moves both numbers at once does not."""
    room = torch.zeros(500, device=device_of("triton"))
    begin = 1 if room.data_ptr() % 8 == 0 else 0
    even = room[1 - begin :][:24].view(2, 3, 4), room[1 - begin :][:80].view(2, 4, 10)[:, :3, :4]
    odd = (
        room[begin:][:24].view(2, 3, 4), room[1 - begin :][:66].view(2, 3, 11)[..., :4],
        room[1 - begin :][:30].view(2, 15)[:, :12].view(2, 3, 4), room[1 - begin :][:48].view(2, 3, 8)[..., ::2],
    )  # fmt: skip
    for x in odd if copied else even:
        pairs = _in_pairs(x)
        assert (pairs is not x) == copied and torch.equal(pairs, x)
        assert pairs.data_ptr() % 8 == 0 and pairs.stride(2) == 1
        assert pairs.stride(0) % 2 == 0 and pairs.stride(1) % 2 == 0


def test_packed() -> None:
    paired_problem(1, 24, 3, nonlinearity="tanh", starts=[0, 7, 7, 20]).check("triton")
