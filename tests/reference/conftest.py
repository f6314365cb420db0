"""The deterministic data and model on which the definitions' numbers are known."""

import pytest
import torch
from torch import Tensor


@pytest.fixture
def det_inputs() -> Tensor:
    """x[n, t] = 1.5 sin(1.7 n + 0.9 t + 0.37 n t), N = 32, T = 100."""
    n = torch.arange(32, dtype=torch.float64)[:, None]
    t = torch.arange(100, dtype=torch.float64)
    return (1.5 * torch.sin(1.7 * n + 0.9 * t + 0.37 * n * t))[..., None]


@pytest.fixture
def det_params() -> dict[str, Tensor]:
    """Eight units with rates from 0.009 to 0.9, to be used directly."""
    i = torch.arange(8, dtype=torch.float64)
    return {
        "rnn.weight_ih_l0": torch.cos(i)[:, None],
        "rnn.bias_l0": 0.1 * torch.sin(i),
        "rnn.rate_l0": 0.9 * torch.logspace(-2, 0, 8, dtype=torch.float64),
        "readout.weight": torch.cos(2 * i + 1)[None] / 8,
        "readout.bias": torch.tensor([0.05], dtype=torch.float64),
    }


@pytest.fixture
def det_direction(det_params: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rates down, everything else up."""
    return {
        name: -torch.ones_like(p) if name == "rnn.rate_l0" else torch.ones_like(p) for name, p in det_params.items()
    }
