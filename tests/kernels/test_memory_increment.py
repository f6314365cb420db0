"""The increment kernel against the PyTorch iteration, which is tested against the definition."""

import pytest
import torch
from sweep_cases import increment_arguments

pytest.importorskip("triton")

from cofm_triton.cpu.blocked import memory_increment as blocked
from cofm_triton.kernels.memory_increment import sampled_increments

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", ["tanh", "hardtanh", "relu", "linear"])
@pytest.mark.parametrize("shape", [(3, 5, 7, 2, [0, 1, 9]), (2, 3, 70, 1, [4, 5, 20]), (1, 1, 1, 3, [0])])
def test_increments(shape: tuple[int, int, int, int, list[int]], name: str, dtype: torch.dtype) -> None:
    """Ragged blocks of inputs, more units than a block has, several outputs, steps that are left out."""
    drive, decay, step, readout, steps = increment_arguments(*shape)
    rounded = [value.to(dtype) for value in (drive, decay, step, readout)]
    exact = blocked.sampled_increments(name, *(value.double() for value in rounded), steps)  # type: ignore[call-arg]
    actual = sampled_increments(name, *(value.to(DEVICE) for value in rounded), steps.to(DEVICE))  # type: ignore[call-arg]
    assert actual.dtype == dtype
    # A step rounds 8 times, relative to z, which shrinks; the sum over units relative to its largest term.
    terms = (readout.abs()[:, None] @ drive.abs().mT).amax()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(actual.cpu().double(), exact, rtol=0, atol=8 * (shape[4][-1] + 8) * eps * float(terms))


def test_digits_survive_in_float32() -> None:
    """One slow tanh unit down to 1e-30: as many roundings as steps, none of them relative to an earlier size."""
    count, decay = 690, 0.905
    one = torch.ones(1, 1, dtype=torch.float64)
    rounded = [value.float() for value in (2 * one[None], decay * one, (1 - decay) * one, one[None])]
    steps = torch.tensor([0, 100, count])
    exact = blocked.sampled_increments("tanh", *(value.double() for value in rounded), steps)  # type: ignore[call-arg]
    # l and A are rounded each: their sum is 1 but for a rounding, which every step of saturation takes in.
    actual = sampled_increments("tanh", *(value.to(DEVICE) for value in rounded), steps.to(DEVICE))  # type: ignore[call-arg]
    assert exact[0, 0, 2, 0] < 1e-29
    torch.testing.assert_close(actual.cpu().double(), exact, rtol=2 * count * torch.finfo(torch.float32).eps, atol=0)
