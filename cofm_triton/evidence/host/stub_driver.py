"""A GPU that is not there: Triton's own driver, binder, caches and C launcher, on a CUDA library that does nothing.

Kernels are compiled for an H100 and launched with all that their launch costs the host, up to the call of
`cuLaunchKernelEx`, which returns at once. Tensors are on the CPU, and pass for tensors on the GPU: to the launcher an
address is a number. What differs from a machine with a GPU:

- CUDA's own work for a launch, one to three microseconds, is missing, and so is the cost of a switch to the thread in
  which PyTorch runs backward passes of a GPU;
- PyTorch's own operations run, on the CPU, where a GPU would only be sent them: small ones cost about the same, the sum
  of a large tensor more;
- memory comes from the C library (`ENVIRONMENT` keeps it from going back to the system), not from CUDA's allocator.

Use it in a process of its own: every backend of the package is Triton there, and results are never computed.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from cofm_triton.evidence.compilation.devices import DEVICES
from cofm_triton.ops import backends

DEVICE = DEVICES["sm_90"]
# For the process that uses the driver: memory stays in it, as with CUDA's caching allocator.
ENVIRONMENT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**28),
    "CUDA_VISIBLE_DEVICES": "",
    "OMP_NUM_THREADS": "1",
}
_LIBRARY = "libcuda.so.1"
_ANSWERS_NOTHING = (
    "cuDevicePrimaryCtxRelease", "cuCtxSetCurrent", "cuCtxSetLimit", "cuFuncSetAttribute", "cuFuncSetCacheConfig",
    "cuModuleUnload", "cuTensorMapEncodeTiled", "cuTensorMapEncodeIm2col", "cuInit",
)  # fmt: skip
_ANSWERS = {
    "cuDeviceGet": "int *found, int number", "cuDeviceGetCount": "int *found", "cuCtxGetDevice": "int *found",
    "cuStreamIsCapturing": "void *stream, int *found", "cuCtxGetLimit": "long *found, int limit",
    "cuOccupancyMaxActiveClusters": "int *found, void *function, void *config", "cuDriverGetVersion": "int *found",
}  # fmt: skip
# Everything that Triton's driver asks a CUDA library for; other numbers than these decide nothing about a launch.
_SOURCE = f"""
static long launches = 0;
static int something = 0;
long cofm_launches(void) {{ return launches; }}
int cuLaunchKernelEx(void *config, void *function, void **arguments, void **extra) {{ launches++; return 0; }}
int cuPointerGetAttribute(void *found, int attribute, unsigned long long address) {{
    *(unsigned long long *)found = address; return 0; }}
int cuGetErrorString(int error, const char **found) {{ *found = "stub"; return 0; }}
int cuCtxGetCurrent(void **found) {{ *found = &something; return 0; }}
int cuDevicePrimaryCtxRetain(void **found, int device) {{ *found = &something; return 0; }}
int cuModuleLoadData(void **found, const void *image) {{ *found = &something; return 0; }}
int cuModuleGetFunction(void **found, void *module, const char *name) {{ *found = &something; return 0; }}
int cuFuncGetAttribute(int *found, int attribute, void *function) {{ *found = 1024; return 0; }}
int cuDeviceGetAttribute(int *found, int attribute, int device) {{
    *found = attribute == 16 ? {DEVICE.multiprocessors} : attribute == 10 ? 32 : 232448; return 0; }}
""" + "\n".join(
    [f"int {name}() {{ return 0; }}" for name in _ANSWERS_NOTHING]
    + [f"int {name}({arguments}) {{ *found = 0; return 0; }}" for name, arguments in _ANSWERS.items()]
    + [f"int {name}_v2() {{ return 0; }}" for name in ("cuModuleUnload", "cuDevicePrimaryCtxRelease")]
)


class StubGPU:
    """Makes this process one whose GPU does nothing.

    Attributes:
        folder: for the compiled library.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / _LIBRARY
        compiler = os.environ.get("CC", "cc")
        command = [
            compiler,
            "-x",
            "c",
            "-",
            "-O2",
            "-w",
            "-shared",
            "-fPIC",
            f"-Wl,-soname,{_LIBRARY}",
            "-o",
            str(path),
        ]
        subprocess.run(command, input=_SOURCE, text=True, check=True)
        self._library = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        self._library.cofm_launches.restype = ctypes.c_long
        os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
        _use_driver()
        _answer_for_torch()
        _take_cpu_for_gpu()

    def launches(self) -> int:
        """Launches so far."""
        return int(self._library.cofm_launches())


def _use_driver() -> None:
    """Triton's driver for CUDA, but for what it asks PyTorch about the device."""
    from triton.backends.nvidia.driver import CudaDriver, CudaLauncher, CudaUtils
    from triton.runtime import driver

    stub: Any = object.__new__(CudaDriver)
    stub.utils, stub.launcher_cls = CudaUtils(), CudaLauncher
    stub.get_current_device = lambda: 0
    stub.set_current_device = lambda device: None
    stub.get_current_stream = lambda device: 0
    stub.get_device_capability = lambda device=0: divmod(int(DEVICE.target[1]), 10)
    stub.get_benchmarker = lambda: _untuned
    driver.set_active(stub)


def _untuned(run: Any, *, quantiles: Any, **_: Any) -> list[float]:
    """Times for an autotuner: without a GPU every configuration takes as long as the others."""
    run()
    return [1.0] * len(quantiles)


def _answer_for_torch() -> None:
    """What other libraries ask PyTorch about the device."""
    cuda: Any = torch.cuda
    cuda.is_available, cuda.device_count, cuda.current_device = lambda: True, lambda: 1, lambda: 0
    cuda.get_device_name = lambda *_: DEVICE.name
    cuda.get_device_capability = lambda *_: divmod(int(DEVICE.target[1]), 10)
    cuda.get_device_properties = lambda *_: SimpleNamespace(
        multi_processor_count=DEVICE.multiprocessors, name=DEVICE.name
    )
    cuda.device = lambda *_: nullcontext()


def _take_cpu_for_gpu() -> None:
    """The package takes the CPU for a GPU that Triton drives."""
    backends._TRITON_DEVICES += ("cpu",)
    backends.INTERPRETED_MULTIPROCESSORS = DEVICE.multiprocessors
    backends.INSTALLED["numba"] = False  # what small calls on the CPU are looked at for, no call on a GPU is
