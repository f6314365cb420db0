"""Sweeps over dense models on every backend: what their arguments may look like in memory."""

import pytest
import torch
from scan_cases import BACKENDS, device_of
from sweep_cases import apart, cells_apart, dense_models, module_of, randn


@pytest.mark.parametrize("backend", [backend for backend in BACKENDS if backend != "torch"])
def test_any_strides(backend: str) -> None:
    device = device_of(backend)
    cells, x, y = dense_models("tanh", 4, 2, 3, 2)[0].to(device), randn(5, 7, 2).to(device), randn(5, 7, 3).to(device)
    run = module_of(backend, "dense_perturbation").sweep_errors
    assert torch.equal(run(cells_apart(cells), apart(x), apart(y), None), run(cells, x, y, None))
