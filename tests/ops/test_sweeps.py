"""Every backend of the sweeps has the signature of its protocol."""

from __future__ import annotations

import inspect

import pytest

from cofm_triton.cpu.blocked import perturbation
from cofm_triton.ops.backends import INSTALLED
from cofm_triton.ops.sweeps import (
    CompiledSweepBackend,
    IncrementBackend,
    SweepBackend,
    compiled_sweep,
    increment_backend,
)


def names(function: object) -> list[str]:
    assert callable(function)
    return [name for name in inspect.signature(function).parameters if name != "self"]


@pytest.mark.parametrize("backend", ["triton", "numba"])
@pytest.mark.parametrize("dense", [False, True])
def test_compiled_sweeps(backend: str, dense: bool) -> None:
    if not INSTALLED[backend]:
        pytest.skip(f"{backend} is not installed")
    module = compiled_sweep(backend, dense=dense)
    assert names(module.sweep_errors) == names(CompiledSweepBackend.sweep_errors)


def test_the_sweep_in_pytorch_takes_the_same_and_a_callback() -> None:
    assert names(perturbation.sweep_errors) == [*names(SweepBackend.sweep_errors), "finished"]


@pytest.mark.parametrize("backend", ["triton", "numba", "torch"])
def test_increments(backend: str) -> None:
    if not INSTALLED.get(backend, True):
        pytest.skip(f"{backend} is not installed")
    wanted = names(IncrementBackend.sampled_increments)
    assert names(increment_backend(backend).sampled_increments) == wanted
