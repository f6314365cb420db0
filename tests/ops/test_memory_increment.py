"""Increments of memory on every backend: what its arguments may look like in memory."""

import pytest
import torch
from scan_cases import BACKENDS, device_of
from sweep_cases import apart, increment_arguments, module_of


@pytest.mark.parametrize("backend", BACKENDS)
def test_any_strides(backend: str) -> None:
    *given, steps = (value.to(device_of(backend)) for value in increment_arguments(2, 3, 5, 2, [0, 4]))
    run = module_of(backend, "memory_increment").sampled_increments
    assert torch.equal(run("tanh", *map(apart, given), steps), run("tanh", *given, steps))
