"""No operator touches memory outside its arrays, or leaves a number of a result unwritten, on any backend."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fenced_memory import FENCES, Fence, fenced, fences_here
from scan_cases import BACKENDS, for_backends
from selection import evenly_spaced
from torch import Tensor

import cofm_triton as cofm
from cofm_triton.evidence.case import PACKED, STATES, STRIDED, Case
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.registry import validations
from cofm_triton.evidence.validation.cases import draw
from cofm_triton.ops import backends
from cofm_triton.ops.rnn_readout import MIN_CPU_BATCH

# One, and around the blocks of channels and of time that kernels are launched with.
WIDTHS = (33, 1, 65, 31, 64, 32, 63)
LENGTHS = (1, 17, 7, 9, 16, 8, 15)
# Compiled code is made for every variant and, up to 64, every width, which takes seconds: in registers, and in blocks.
COMPILED_WIDTHS = (3, 70)
# A matrix that no program holds, so that every step is a launch.
STEP_BY_STEP = (2, 3, 130)

_FLOATS = ctypes.POINTER(ctypes.c_float)


def cases(operator: str, backend: str) -> Iterator[Case]:
    """Variants, sizes, dtypes and layouts in turn, so that every one of them occurs."""
    entry, compiled = validations()[operator], backend == "numba"
    variants = evenly_spaced(list(entry.draws), len(COMPILED_WIDTHS)) if compiled else list(entry.draws)
    dtypes = [torch.float32] if compiled and torch.float32 in entry.dtypes else list(entry.dtypes)
    widths = COMPILED_WIDTHS if compiled else WIDTHS
    for turn in range(max(len(variants), len(widths))):
        variant, width = variants[turn % len(variants)], widths[turn % len(widths)]
        batch, layout = (
            1 if PACKED in variant.split("+") or turn % 3 else 2,
            STATES if turn % 2 else f"{STATES}+{STRIDED}",
        )
        if operator == "rnn_readout" and compiled:
            batch = MIN_CPU_BATCH + 1  # a few sequences would take another way
        size = batch, LENGTHS[turn % len(LENGTHS)], min(width, entry.largest or width)
        yield Case(operator, variant, size, dtypes[turn % len(dtypes)], layout, turn)
    if (operator, backend) == ("dense_rnn", "triton"):
        for turn, variant in enumerate(entry.draws):
            yield Case(operator, variant, STEP_BY_STEP, torch.float64, STATES, turn)


PLACES = [
    place
    for name, entry in validations().items()
    for place in for_backends([it for it in BACKENDS if getattr(it, "values", [it])[0] in entry.backends], [name])
]


@fences_here
@pytest.mark.slow
@pytest.mark.parametrize(("backend", "operator"), PLACES)
def test_nothing_outside_and_all_inside(backend: str, operator: str) -> None:
    for case in cases(operator, backend):
        problem = draw(case)
        bounds = problem.bounds()
        if backend == "numba":
            problem.run(backend)  # compiles
        for fence in FENCES if case.seed % 3 == 0 else FENCES[:1]:  # most go too far, few begin too early
            for name, result in run(problem, backend, fence).items():
                assert bounds[name].excess(result) <= problem.slack(backend), (case.text, fence, name)


def run(problem: Problem, backend: str, fence: Fence) -> dict[str, Any]:
    """What a call gives; its arguments are left as they were."""
    with fenced(fence, arrays=backend == "numba") as mode:
        options = {name: value for name, value in problem.options.items() if isinstance(value, Tensor)}
        tensors = {**problem.tensors, **problem.pulls, **options}
        given = {name: mode.tensor(value) if value.numel() else value for name, value in tensors.items()}
        found = problem.with_(**given).run(backend)
    assert all(torch.equal(value, tensors[name]) for name, value in given.items())
    return found


# What kernels other than the operators' do for layers: coefficients of every kind, and gradients of activations.
LAYERS: list[dict[str, Any]] = [
    dict(),
    dict(nonlinearity="tanh", recurrence="diagonal", learnable_dt=True, oscillating=False),
    dict(recurrence="diagonal", normalize_input=True),
    dict(recurrence="ssm", oscillating=False, learnable_dt=True, bias=False),
    dict(
        recurrence="diagonal", nonlinearity="tanh", oscillating=False, normalize_input="paper", parameterization="lru"
    ),
]


@fences_here
@pytest.mark.slow
@pytest.mark.parametrize("width", [2, 34, 66])
@pytest.mark.parametrize("options", LAYERS, ids=lambda options: "-".join(map(str, options.values())))
def test_layers_stay_inside(options: dict[str, Any], width: int) -> None:
    torch.manual_seed(0)
    kind = cofm.StableRNN if "normalize_input" in options else cofm.RNNFunctional
    model = kind(3, width, backend="triton", **options)
    x = torch.randn(2, 5, 3)

    def run(x: Tensor) -> list[Tensor]:
        output = model(x)
        output = output[0] if isinstance(output, tuple) else output
        return [output, *torch.autograd.grad(output.square().sum(), list(model.parameters()))]

    expected = run(x)
    for fence in FENCES:
        with fenced(fence) as mode:
            for parameter in model.parameters():
                parameter.data = mode.tensor(parameter.data)
            found = run(mode.tensor(x))
        assert all(map(torch.equal, found, expected))


STARTS = [[1, 3], [0, 5, 3], [0, 6], [-1, 2], [0, -2], [0, 2**62], [-(2**62), 0]]


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("operator", ["linear_scan", "rnn_scan", "paired_rnn_scan", "gated_rnn"])
def test_wild_starts_reach_no_kernel(
    operator: str, backend: str, starts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And those that could not be looked at, since looking would wait for a GPU, do no harm in one."""
    packed = next(variant for variant in validations()[operator].draws if PACKED in variant.split("+"))
    problem = draw(Case(operator, packed, (1, 5, 3), torch.float32, STATES, 0))
    wild = problem.with_(seq_starts=torch.tensor(starts), h0=torch.zeros(len(starts), 3))
    called: list[str] = []
    monkeypatch.setattr(backends, "implementation", lambda *names: called.append("a kernel"))
    with pytest.raises(ValueError, match="seq_starts must start with 0 and not decrease up to T = 5"):
        wild.run(backend)
    assert not called


@fences_here
@pytest.mark.parametrize("fence", FENCES)
def test_fences_end_the_process(fence: Fence) -> None:
    past = 12 if fence.side == "behind" else -4
    code = f"""
import ctypes, torch
from fenced_memory import Fence, fenced
with fenced({fence}):
    x = torch.zeros(3)
    assert ctypes.c_float.from_address(x.data_ptr()).value == 0
    ctypes.c_float.from_address(x.data_ptr() + {past}).value
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV, done.stderr


@fences_here
@pytest.mark.parametrize("fence", FENCES)
def test_poison_tells_what_was_written_beside_and_what_was_not_written(fence: Fence) -> None:
    beside = -1 if fence.side == "behind" else 3
    with pytest.raises(AssertionError, match="1 of 1 arrays have been written beside"), fenced(fence):
        torch.empty(3).numpy().ctypes.data_as(_FLOATS)[beside] = 1.0
    with fenced(fence):
        given = torch.ones(2, 3)[:, ::2]
        kept, unwritten = torch.empty_like(given), given.new_empty(2)
    assert (
        torch.equal(given, torch.ones(2, 2))
        and bytes(unwritten.view(torch.uint8).tolist()) == bytes([fence.poison]) * 8
    )
    assert kept.shape == given.shape
