"""Layers on tensors of a GPU that is not there: run by test_graphs.py in a process of its own.

    python tests/fake_gpu.py FOLDER

A build of PyTorch without CUDA has no guard, which makes a GPU the current one, and asks for one wherever it indexes a
tensor, copies it or records a gradient; the guard of a build with CUDA asks for a driver. Tensors without numbers need
a guard that does nothing: here are its two lines. Backward passes of whole layers stay out of reach ("Cannot access
accelerator device when none is available": PyTorch's engine asks for the stream of a GPU); those of operators are
called one by one.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from cofm_triton.layers.residual import ResidualStack
from cofm_triton.layers.rnn_functional import RNNFunctional
from cofm_triton.layers.stable_rnn import StableRNN

GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
namespace c10::impl { C10_REGISTER_GUARD_IMPL(CUDA, NoOpDeviceGuardImpl<DeviceType::CUDA>); }
"""
OPTIONS: list[dict[str, Any]] = [
    {},
    dict(num_layers=2, bidirectional=True, learnable_dt=True),
    dict(recurrence="diagonal", nonlinearity="tanh"),
    dict(recurrence="diagonal", nonlinearity="tanh", oscillating=False),
    dict(recurrence="orthogonal", nonlinearity="linear"),
    dict(recurrence="orthogonal", nonlinearity="tanh"),
    dict(recurrence="dense"),
    dict(gated=True),
    dict(gated="mingru", oscillating=False),
]


class Recorder(TorchDispatchMode):
    """Our operators, as they are called."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        if func.namespace == "cofm_triton":
            self.calls.append((func, args, results))
        return results


def allow(folder: Path) -> None:
    """Build and load what is missing."""
    source, library, torch_folder = folder / "guard.cpp", folder / "guard.so", Path(torch.__file__).parent
    source.write_text(GUARD)
    flags = ["-shared", "-fPIC", "-std=c++20", f"-I{torch_folder / 'include'}", f"-L{torch_folder / 'lib'}", "-lc10"]
    subprocess.run(["g++", str(source), "-o", str(library), *flags], check=True)
    ctypes.CDLL(str(library))


def check(kind: Any, **options: Any) -> None:
    """A model is made and called on the GPU, with gradients recorded, by Triton's operators alone."""
    recorder = Recorder()
    with FakeTensorMode(), recorder:
        model = kind(3, 5, device="cuda", **options)
        found = model(torch.randn(4, 9, 3, device="cuda"))
        for name, tensor in dict(model.named_parameters(), y=found if isinstance(found, Tensor) else found[0]).items():
            assert tensor.device.type == "cuda" and tensor.requires_grad, name
    assert recorder.calls
    assert all("triton" in arguments for _, arguments, _ in recorder.calls)


if __name__ == "__main__":
    if not torch.cuda.is_available():
        allow(Path(sys.argv[1]))
    for each in OPTIONS:
        check(StableRNN, batch_first=True, **each)
    check(RNNFunctional)
    check(ResidualStack, batch_first=True)
