"""Ahead-of-time compilation of every kernel for a GPU that need not be there: `python aot.py cuda:90`.

The launchers of `cofm_triton.kernels` are called as the operators call them, on tensors of PyTorch's meta device, which
have shapes and strides and no memory. A driver that only names its target stands in for the GPU's, and a launch
compiles its kernel and stops there, so that signatures, options and launch shapes come from the one place that knows
them.

Writes a JSON list, one entry per compiled kernel: its name, the case that launched it, registers per thread, and bytes
or registers that did not fit and spill to memory. Runs in a process of its own, without TRITON_INTERPRET.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from cofm_triton.kernels import linear_scan, perturbation, rnn_readout, rnn_scan
from cofm_triton.nonlinearity import NONLINEARITIES
from cofm_triton.ops.dtypes import state_dtype
from cofm_triton.stacked import StackedCells

# Multiprocessors: one never splits time, 132 (an H100's) does where few channels call for it.
WHOLE, SPLIT = 1, 132
# Bytes of a row that keeps 132 multiprocessors busy in narrow blocks only.
NARROW_BYTES = 66 * 256


@dataclass(frozen=True)
class Resources:
    """What the compiler needed for one kernel."""

    kernel: str
    case: str
    registers: int
    spilled: int


class OfflineDriver:
    """All of a driver that compiling takes."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def cases() -> dict[str, Callable[[], object]]:
    """What the launchers can be asked for: every flag, every dtype, and the widths that need most registers."""
    found: dict[str, Callable[[], object]] = {}

    def add(name: str, run: Callable[..., object], **options: Any) -> None:
        label = " ".join((name, *(f"{key}={value}" for key, value in options.items())))
        found[label] = lambda: run(**options)

    # 512 channels fill programs with aligned rows; 500 leave rows unaligned and the last program partly empty.
    even, ragged, narrow = 512, 500, 3
    for gated in (False, True):
        for dtype in (torch.float32, torch.float64, torch.bfloat16):
            add("linear", _linear_scan, gated=gated, dtype=dtype, width=even)
        for dtype in (torch.float32, torch.bfloat16):
            add("linear", _linear_scan, gated=gated, dtype=dtype, width=ragged, packed=True)
        add("linear", _linear_scan, gated=gated, width=ragged, reverse=True, states=False)
        add("linear", _linear_scan, gated=gated, width=64, length=4096, num_sms=SPLIT)
        add("linear", _linear_scan, gated=gated, width=even, sliced=True)
        for dtype in (torch.float32, torch.bfloat16, torch.complex64):
            add("linear", _linear_scan, gated=gated, dtype=dtype, width=NARROW_BYTES // dtype.itemsize, num_sms=SPLIT)
        add("linear", _linear_scan, gated=gated, dtype=torch.complex64, width=even)
        add("linear", _linear_scan, gated=gated, dtype=torch.complex64, width=ragged)
    add("linear", _linear_scan, width=narrow)
    for nonlinearity in NONLINEARITIES:
        add("rnn", _rnn_scan, nonlinearity=nonlinearity)
        add("rnn", _rnn_scan, nonlinearity=nonlinearity, dtype=torch.float64)
    add("rnn", _rnn_scan, dtype=torch.bfloat16, sliced=True)
    add("rnn", _rnn_scan, nonlinearity="tanh", dtype=torch.bfloat16)
    for dtype in (torch.bfloat16, torch.float64):
        add("rnn", _rnn_scan, nonlinearity="tanh", dtype=dtype, width=ragged)
    add("rnn", _rnn_scan, width=ragged, packed=True)
    add("rnn", _rnn_scan, width=narrow, states=False)
    for nonlinearity in NONLINEARITIES:
        add("readout", _rnn_readout, act_in=nonlinearity)
        add("readout", _rnn_readout, act_out=nonlinearity, dtype=torch.float64)
    for features in (2, 4, 8):  # twice that many inputs and outputs together: the limits of each number of units a lane
        for dtype in (torch.float32, torch.float64):
            add("readout", _rnn_readout, act_in="tanh", features=features, width=ragged, dtype=dtype)
    add("sweep", _sweep, units=64, act_in="tanh")
    add("sweep", _sweep, units=32, act_in="hardtanh", dtype=torch.float64)
    add("sweep", _sweep, units=9, act_out="relu", inputs=2, outputs=3, sup=True)
    return found


def _meta(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _sequence(length: int, width: int, dtype: torch.dtype, sliced: bool) -> Tensor:
    """(1, length, width); `sliced` out of rows one number longer, which leaves them unaligned."""
    return _meta(1, length, width + sliced, dtype=dtype)[..., :width]


def _linear_scan(
    dtype: torch.dtype = torch.float32, gated: bool = False, reverse: bool = False, packed: bool = False,
    states: bool = True, length: int = 4096, width: int = 512, num_sms: int = WHOLE, sliced: bool = False,
) -> None:  # fmt: skip
    state = state_dtype(dtype)
    x = _sequence(length, width, dtype, sliced)
    decay = x if gated else _meta(width, dtype=state)
    seq_starts = _meta(4, dtype=torch.int64) if packed else None
    h0 = _meta(4 if packed else 1, width, dtype=state) if states else None
    options: dict[str, Any] = dict(reverse=reverse, state_dtype=state, num_sms=num_sms)
    linear_scan.forward(x, decay, h0, seq_starts, **options)
    h = _meta(*x.shape, dtype=dtype)
    linear_scan.backward(x, h0, decay, h, h0, seq_starts, **options)


def _rnn_scan(
    nonlinearity: str = "hardtanh", dtype: torch.dtype = torch.float32, packed: bool = False,
    states: bool = True, length: int = 4096, width: int = 512, sliced: bool = False,
) -> None:  # fmt: skip
    state = state_dtype(dtype)
    x, rate = _sequence(length, width, dtype, sliced), _meta(width, dtype=state)
    seq_starts = _meta(4, dtype=torch.int64) if packed else None
    h0 = _meta(4 if packed else 1, width, dtype=state) if states else None
    options: dict[str, Any] = dict(dt=0.5, nonlinearity=nonlinearity, state_dtype=state)
    rnn_scan.forward(x, rate, h0, seq_starts, **options)
    h = _meta(*x.shape, dtype=dtype)
    rnn_scan.backward(x, h0, x, rate, h, h0, seq_starts, **options)


def _rnn_readout(
    act_in: str = "linear", act_out: str = "linear", features: int = 1, dtype: torch.dtype = torch.float32,
    width: int = 512, length: int = 4096,
) -> None:  # fmt: skip
    x, rate = _meta(1, length, features, dtype=dtype), _meta(width, dtype=dtype)
    weight, readout = _meta(width, features, dtype=dtype), _meta(features, width, dtype=dtype)
    options: dict[str, Any] = dict(dt=0.5, act_in=act_in, act_out=act_out, chunk=64)
    _, states = rnn_readout.forward(x, weight, rate, rate, readout, **options, keep=True)
    rnn_readout.forward(x, weight, rate, rate, readout, **options, keep=False)
    for with_grad_x in (False, True):
        rnn_readout.backward(x, x, weight, rate, rate, readout, states, **options, with_grad_x=with_grad_x)


def _sweep(
    units: int, act_in: str = "linear", act_out: str = "linear", dtype: torch.dtype = torch.float32,
    inputs: int = 1, outputs: int = 1, sup: bool = False,
) -> None:  # fmt: skip
    count, coefficient = 40, torch.float64
    shapes = ((count, units), (count, units, inputs), (count, units), (count, outputs, units), (count, outputs))
    cells = StackedCells(*(_meta(*shape, dtype=coefficient) for shape in shapes), 0.5, act_in, act_out)
    x, targets = _meta(300, 100, inputs, dtype=dtype), _meta(300, 100, outputs, dtype=dtype)
    perturbation.sweep_errors(cells, x, targets, None if sup else _meta(100, dtype=coefficient))


def compile_all(target: GPUTarget) -> list[Resources]:
    """Compile every kernel of every case once for `target`."""
    driver.set_active(OfflineDriver(target))
    compiled: dict[str, Resources] = {}
    launch = JITFunction.run
    case = ""

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        if kernel.hash not in compiled:
            compiled[kernel.hash] = Resources(self.fn.__name__, case, *_usage(kernel.asm))
        return kernel

    JITFunction.run = compile_only
    try:
        for case, run in cases().items():  # noqa: B007 (read by compile_only)
            run()
    finally:
        JITFunction.run = launch
    return list(compiled.values())


def _usage(code: dict[str, Any]) -> tuple[int, int]:
    """`(registers, spilled)` of a compiled kernel, from the machine code's own account."""
    if "amdgcn" in code:
        text = str(code["amdgcn"])
        # Scalar registers spill to lanes of a vector register, not to memory.
        spilled = re.findall(r"\.(?:vgpr_spill_count|private_segment_fixed_size):\s*(\d+)", text)
        (registers,) = re.findall(r"\.vgpr_count:\s*(\d+)", text)
        return int(registers), sum(map(int, spilled))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(code["cubin"])
        report = subprocess.run(
            [_cuobjdump(), "--dump-resource-usage", str(path)], capture_output=True, text=True, check=True
        ).stdout
    (usage,) = re.findall(r"REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", report)
    registers, stack, local = map(int, usage)
    return registers, stack + local


def _cuobjdump() -> str:
    """Comes with Triton."""
    return str(Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump")


def parse_target(name: str) -> GPUTarget:
    """"cuda:90" or "hip:gfx942"."""
    backend, architecture = name.split(":")
    if backend == "cuda":
        return GPUTarget(backend, int(architecture), 32)
    return GPUTarget(backend, architecture, 64)


if __name__ == "__main__":
    json.dump([asdict(entry) for entry in compile_all(parse_target(sys.argv[1]))], sys.stdout)
