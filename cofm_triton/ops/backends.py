"""Which backend computes: names, what each needs, and the choice made when none is forced."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

from cofm_triton.ops.derivatives import exporting
from cofm_triton.support.system import interpreting as interpreting

# "cpu" stands for the faster of the two that can run on the CPU.
BACKENDS = ("triton", "cpu", "numba", "torch", "reference")

_PACKAGES = {
    "triton": "cofm_triton.kernels",
    "numba": "cofm_triton.cpu.jit",
    "torch": "cofm_triton.cpu.blocked",
}
# What a graph holds that is exported or traced, and may run elsewhere: the fastest where it runs.
FASTEST = "auto"
NO_ONNX = (
    "ONNX has no operator for these recurrences. Export one step, `layer.prepared().step` in a module of your own, and "
    "call it once per time step (docs/howto/export.md#onnx); or use torch.export, whose programs keep the recurrence"
)
# Devices that Triton drives under these PyTorch device types.
_TRITON_DEVICES: tuple[str, ...] = ("cuda", "xpu")
# What the interpreter, whose programs run one after the other, is taken for: with 1, no launch ever splits time.
INTERPRETED_MULTIPROCESSORS = 1


# Looked for once and not imported; a table rather than a cached function, which torch.compile cannot trace.
INSTALLED = {package: importlib.util.find_spec(package) is not None for package in ("numba", "triton")}


class SlowBackendWarning(UserWarning):
    """Something is computed in plain PyTorch that an optional package would compute many times faster.

    Example:
        >>> import warnings
        >>> warnings.simplefilter("ignore", SlowBackendWarning)
    """


def resolve(backend: str | None, device: torch.device) -> str:
    """The backend that will run tensors on `device`: one of "triton", "numba", "torch", "reference".

    While a graph is exported or traced, None gives `FASTEST`; the graph's operators ask `fastest` where they run.

    Warns:
        SlowBackendWarning: the compiled backend would do it, and numba is missing; once a process.

    Raises:
        NotImplementedError: `torch.onnx.export` is at work.
        ValueError: unknown name, or a forced backend that cannot run here; the message says what is missing.
    """
    if exporting():
        if _for_onnx():
            raise NotImplementedError(NO_ONNX)
        if backend is None:
            return FASTEST
    if backend is None:
        return fastest(device)
    if backend not in BACKENDS:
        raise ValueError(f"backend must be None or one of {BACKENDS}, got {backend!r}")
    if backend == "cpu":
        if device.type != "cpu":
            raise ValueError(f"backend='cpu' needs tensors on the CPU, got tensors on {device}")
        return _fastest_on_cpu()
    if backend == "numba":
        if device.type != "cpu":
            raise ValueError(f"backend='numba' needs tensors on the CPU, got tensors on {device}")
        if not INSTALLED["numba"]:
            raise ValueError("backend='numba' needs the package numba: pip install 'cofm-triton[cpu]'")
    if backend == "triton":
        if not INSTALLED["triton"]:
            raise ValueError("backend='triton' needs the package triton, which has wheels for Linux only")
        if device.type not in _TRITON_DEVICES and not interpreting():
            raise ValueError(
                f"backend='triton' needs tensors on a GPU, got tensors on {device}; on the CPU its kernels run in "
                "Triton's interpreter when TRITON_INTERPRET=1 is set before triton is first imported"
            )
    return backend


def _for_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


# Whoever traces calls it, as by `torch.compiler.assume_constant_result`, which would import the compiler: left to
# itself, the compiler takes PyTorch's function to be False.
vars(_for_onnx)["_dynamo_marked_constant"] = True


def takes_triton(backend: str | None, device: torch.device) -> bool:
    """Whether `resolve` gives "triton", without a word where it gives another one; its errors.

    Example:
        >>> takes_triton(None, torch.device("cpu"))
        False
    """
    if backend is None:
        return device.type in _TRITON_DEVICES and INSTALLED["triton"]
    return backend == "triton" and resolve(backend, device) == "triton"


def fastest(device: torch.device) -> str:
    """The fastest backend that is installed for tensors on `device`."""
    if device.type in _TRITON_DEVICES and INSTALLED["triton"]:
        return "triton"
    return _fastest_on_cpu() if device.type == "cpu" else "torch"


_warned = False


def _fastest_on_cpu() -> str:
    """The compiled backend; without numba PyTorch's, with a warning, once a process."""
    global _warned
    if INSTALLED["numba"]:
        return "numba"
    if not _warned and not torch.compiler.is_compiling():  # compilers do not follow a warning
        _warned = True
        warnings.warn(
            "scans and sweeps on the CPU run in plain PyTorch, which takes ten to a hundred times as long as compiled "
            "code: pip install 'cofm-triton[cpu]' brings numba, which compiles them. backend='torch' asks for PyTorch "
            "without this warning",
            SlowBackendWarning,
            stacklevel=5,
        )
    return "torch"


@cache
def implementation(backend: str, operator: str) -> Any:
    """The module that computes `operator` on a resolved backend; imported on first use.

    What it offers, the same on every backend, is the operator's `Backend`, a protocol that mypy holds each module to.
    """
    if backend == "triton":
        from cofm_triton.kernels.cache_folder import ensure_folder

        ensure_folder()
    return importlib.import_module(f"{_PACKAGES[backend]}.{operator}")


def is_current(device: torch.device) -> bool:
    """Whether Triton launches on `device`: it does on the current GPU, wherever its arguments are.

    Example:
        >>> is_current(torch.device("cpu"))
        True
    """
    if device.type == "cuda":
        return device.index == torch.cuda.current_device()
    return device.type != "xpu" or device.index == torch.xpu.current_device()


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """Makes `device` the current one, see `is_current`.

    Example:
        >>> with on_device(torch.device("cpu")):
        ...     pass  # nothing changes
    """
    if is_current(device):
        return nullcontext()
    return torch.cuda.device(device) if device.type == "cuda" else torch.xpu.device(device)


@cache
def num_sms(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    if device.type == "xpu":
        return torch.xpu.get_device_properties(device).gpu_subslice_count
    return INTERPRETED_MULTIPROCESSORS


@cache
def lanes(device: torch.device) -> int:
    """Threads of a warp: 64 on AMD's data centre GPUs."""
    return torch.cuda.get_device_properties(device).warp_size if device.type == "cuda" else 32
