"""Which backend runs, and what the others say when they cannot."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from sweep_cases import random_cells
from torch import Tensor

import cofm_triton as cofm
from cofm_triton.ops import (
    backends,
    dense_rnn,
    linear_scan,
    memory_increment,
    paired_rnn_scan,
    perturbation,
    rnn_readout,
    rnn_scan,
)
from cofm_triton.ops.backends import BACKENDS, SlowBackendWarning, num_sms, resolve
from cofm_triton.ops.registration import _on_a_backend

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """What is installed, to be changed."""
    table = {"numba": True, "triton": True}
    monkeypatch.setattr(backends, "INSTALLED", table)
    monkeypatch.setattr(backends, "_warned", False)
    return table


@pytest.mark.parametrize(
    ("backend", "device", "numba", "triton", "expected"),
    [
        (None, CPU, True, True, "numba"),
        (None, CPU, False, True, "torch"),
        (None, GPU, True, True, "triton"),
        (None, GPU, True, False, "torch"),
        (None, torch.device("mps"), True, True, "torch"),
        ("cpu", CPU, True, True, "numba"),
        ("cpu", CPU, False, False, "torch"),
        ("numba", CPU, True, False, "numba"),
        ("torch", CPU, True, True, "torch"),
        ("torch", GPU, True, True, "torch"),
        ("triton", GPU, False, True, "triton"),
        ("reference", GPU, True, True, "reference"),
    ],
)
def test_resolution(
    backend: str | None, device: torch.device, numba: bool, triton: bool, expected: str, installed: dict[str, bool]
) -> None:
    installed.update(numba=numba, triton=triton)
    is_slow = device == CPU and expected == "torch" and backend != "torch"
    with pytest.warns(SlowBackendWarning, match=r"pip install 'cofm-triton\[cpu\]'") if is_slow else nullcontext():
        assert resolve(backend, device) == expected
    assert resolve(backend, device) == expected  # without another word


@pytest.mark.parametrize("operator", ["linear_scan", "rnn_scan", "perturbation", "worst case", "memory_increment"])
def test_every_computation_that_numba_would_compile_warns_once(operator: str, installed: dict[str, bool]) -> None:
    installed["numba"] = False
    x = torch.zeros(2, 3, 1)
    model = cofm.RNNFunctional(1, 2, nonlinearity="tanh")
    sweep = partial(cofm.perturbation_error, model, x, x + 1, radii=[0.1], directions=1)
    compute: dict[str, Callable[[], object]] = {
        "linear_scan": lambda: cofm.linear_scan(x, torch.ones(1)),
        "rnn_scan": lambda: cofm.rnn_scan(x, torch.ones(1), backend="cpu"),
        "perturbation": sweep,
        "worst case": lambda: sweep(search="gradient"),
        "memory_increment": lambda: cofm.memory_function(model, 3),
    }
    with pytest.warns(SlowBackendWarning) as caught:
        compute[operator]()
    assert len(caught) == 1


def test_nothing_is_slow_that_numba_does_not_compile(installed: dict[str, bool]) -> None:
    installed["numba"] = False
    x = torch.zeros(2, 3, 1)
    linear = cofm.RNNFunctional(1, 2, nonlinearity="linear", backend="torch")
    other = torch.nn.GRU(1, 1, batch_first=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cofm.rnn_scan(x, torch.ones(1), backend="torch")
        cofm.memory_function(linear, 3)
        for model in (linear, other):
            cofm.perturbation_error(model, x, x + 1, radii=[0.1], directions=1)


def test_a_compiled_graph_is_whole_without_numba(installed: dict[str, bool]) -> None:
    installed["numba"] = False
    compiled = torch.compile(lambda x: cofm.linear_scan(x, torch.ones(1))[0], backend="eager", fullgraph=True)
    assert compiled(torch.ones(1, 2, 1)).flatten().tolist() == [1, 2]


@pytest.mark.parametrize(
    ("backend", "device", "missing", "message"),
    [
        ("cpu", GPU, (), r"backend='cpu' needs tensors on the CPU, got tensors on cuda:0"),
        ("numba", GPU, (), r"backend='numba' needs tensors on the CPU, got tensors on cuda:0"),
        ("numba", CPU, ("numba",), r"backend='numba' needs the package numba: pip install 'cofm-triton\[cpu\]'"),
        ("triton", GPU, ("triton",), r"backend='triton' needs the package triton"),
        ("fast", CPU, (), r"backend must be None or one of \('triton', 'cpu', 'numba', .*got 'fast'"),
        ("", CPU, (), r"backend must be None or one of .*got ''"),
    ],
)
def test_what_is_missing(
    backend: str, device: torch.device, missing: tuple[str, ...], message: str, installed: dict[str, bool]
) -> None:
    installed.update(dict.fromkeys(missing, False))
    with pytest.raises(ValueError, match=message):
        resolve(backend, device)


@pytest.mark.parametrize("value", [None, "0", "false"])
def test_triton_on_the_cpu_names_the_interpreter(
    value: str | None, installed: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if value is not None:
        monkeypatch.setenv("TRITON_INTERPRET", value)
    with pytest.raises(ValueError, match=r"backend='triton' needs tensors on a GPU, got tensors on cpu; .*INTERPRET=1"):
        resolve("triton", CPU)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert resolve("triton", CPU) == "triton"


def run(code: str, **environment: str) -> str:
    """What a fresh Python prints, without TRITON_INTERPRET unless it is given."""
    clean = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_process_without_the_interpreter_is_told() -> None:
    printed = run(
        "import torch, cofm_triton as cofm\n"
        "try: cofm.linear_scan(torch.zeros(1, 2, 1), torch.zeros(1), backend='triton')\n"
        "except ValueError as error: print(error)"
    )
    assert "backend='triton' needs " in printed


def test_importing_the_package_imports_no_compiler() -> None:
    loaded = "print([m for m in ('triton', 'numba', 'cofm_triton.kernels', 'cofm_triton.cpu.jit') if m in sys.modules])"
    before = run(f"import sys, torch\n{loaded}")  # torch itself may
    assert run(f"import sys, torch, cofm_triton\n{loaded}") == before


def test_computing_without_numba() -> None:
    printed = run(
        "import sys; sys.modules['numba'] = None\n"
        "import torch, cofm_triton as cofm\n"
        "from cofm_triton.ops import backends; backends.INSTALLED['numba'] = False\n"
        "h, _ = cofm.linear_scan(torch.ones(1, 3, 1), torch.tensor([0.5]))\n"
        "g, _ = cofm.rnn_scan(torch.full((1, 3, 1), 5.0), torch.tensor([1.0]))\n"
        "print(h.flatten().tolist(), g.flatten().tolist())"
    )
    assert printed.strip() == "[1.0, 1.5, 1.75] [1.0, 2.0, 3.0]"


def parameters(function: Any) -> list[tuple[str, Any]]:
    """Names and kinds, in order, without `self`."""
    found = inspect.signature(function).parameters.values()
    return [(parameter.name, parameter.kind) for parameter in found if parameter.name != "self"]


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name not in ("cpu", "reference")])
@pytest.mark.parametrize("operator", [linear_scan, rnn_scan, paired_rnn_scan, dense_rnn, rnn_readout])
def test_every_backend_has_the_signature_of_the_protocol(operator: ModuleType, backend: str) -> None:
    if not backends.INSTALLED.get(backend, True):
        pytest.skip(f"{backend} is not installed")
    module = operator.backend_of(backend)
    for name, function in vars(operator.Backend).items():
        if inspect.isfunction(function) and not name.startswith("_"):
            found = parameters(getattr(module, name))
            own = [given for given in found if given[0] == "summed"]  # Triton's leave sums to the kernel of a layer
            assert [given for given in found if given not in own] == parameters(function)
            assert not own or backend == "triton"


def test_the_cpu_counts_as_one_multiprocessor() -> None:
    assert num_sms(CPU) == 1


class Elsewhere:
    """Stands for a tensor on the second GPU, where there is none."""

    device = torch.device("cuda", 1)


@pytest.fixture
def current(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stack of current GPUs, whose first entry is GPU 0."""
    stack = [0]

    @contextmanager
    def device(chosen: torch.device) -> Iterator[None]:
        stack.append(chosen.index)
        yield
        stack.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: stack[-1])
    monkeypatch.setattr(torch.cuda, "device", device)
    return stack


def test_operators_launch_on_the_gpu_of_their_tensors(current: list[int]) -> None:
    def launch(x: Any, backend: str) -> int:
        return current[-1]

    assert _on_a_backend(launch)(Elsewhere(), "triton") == 1
    assert _on_a_backend(launch)(torch.zeros(1), "numba") == 0
    assert current == [0]


def test_sweeps_launch_on_the_gpu_of_their_tensors(current: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def computes(*_: Any) -> Tensor:
        seen.append(current[-1])
        return torch.zeros(2)

    backend = SimpleNamespace(sampled_increments=computes, sweep_errors=computes)
    monkeypatch.setattr(memory_increment, "increment_backend", lambda _: backend)
    monkeypatch.setattr(perturbation, "compiled_sweep", lambda _, **__: backend)
    there: Any = Elsewhere()
    memory_increment.sampled_increments("tanh", there, there, there, there, there)
    perturbation.sweep_errors(random_cells("tanh", "linear", 3, 1, 1, 2), there, there, None)
    assert seen == [1, 1] and current == [0]
