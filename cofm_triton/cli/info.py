"""`cofm info`: what a report of a fault needs to say: versions, devices, backends, folders of compiled code.

PyTorch is imported only where it was built for GPUs, to ask it for them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cofm_triton._version import __version__
from cofm_triton.cli.options import add_common_options, make_folder, resolve_device
from cofm_triton.support import system

FILE = "info.json"
PACKAGES = ("torch", "triton", "numba", "llvmlite", "numpy", "matplotlib", "safetensors", "tqdm")
# What changes how the library computes, or where compiled code lies.
VARIABLES = (
    "CC", "CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "MKL_NUM_THREADS", "NUMBA_CACHE_DIR", "NUMBA_DISABLE_JIT",
    "NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "PYTORCH_CUDA_ALLOC_CONF", "TORCH_COMPILE_DISABLE", "TRITON_CACHE_DIR",
    "TRITON_CACHE_MANAGER", "TRITON_HOME", "TRITON_INTERPRET",
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_common_options(parser, out="none is written")


def run(arguments: argparse.Namespace) -> int:
    """Look around and print.

    Returns:
        0.
    """
    from cofm_triton.support.files import write_text

    if arguments.device == "cuda":
        resolve_device(arguments.device)
    make_folder(arguments.out)
    about = look_around()
    text = json.dumps(about, indent=2)
    print(text if arguments.json else "\n".join(lines(about)))
    if arguments.out is not None:
        path: Path = arguments.out / FILE
        write_text(path, text + "\n")
        if not arguments.json:
            print(f"Results: {path}")
    return 0


def look_around() -> dict[str, Any]:
    """All that the command says, ready for JSON."""
    gpus = list(_gpus())
    return {
        "cofm_triton": __version__,
        "folder": str(system.PACKAGE),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "processor": system.processor_name(),
        "processors": system.processors(),
        "gpus": gpus,
        "versions": system.versions(PACKAGES),
        "backends": _backends(bool(gpus)),
        "compiler": system.compiler(),
        "caches": {
            name: {**folder._asdict(), "path": str(folder.path)}
            for name, folder in (("numba", system.numba_folder()), ("triton", system.triton_folder()))
        },
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }


def lines(about: dict[str, Any]) -> Iterator[str]:
    """The same for people."""
    rows = {
        "cofm_triton": f"{about['cofm_triton']}, {about['folder']}",
        "Python": f"{about['python']}, {about['system']}",
        "processor": f"{about['processor']}, {about['processors']} to use",
        "GPUs": "; ".join(about["gpus"]) or "none that PyTorch can use",
        "packages": ", ".join(f"{name} {number}" for name, number in about["versions"].items()),
        **{f"backend {name}": state for name, state in about["backends"].items()},
        "C compiler": about["compiler"] or "none found; Triton needs one to launch kernels",
    }
    for name, folder in about["caches"].items():
        size = f"{folder['files']} files, {folder['size'] / 2**20:.1f} MiB"
        rows[f"cache {name}"] = f"{folder['path']}: {size}{'' if folder['writable'] else ', NOT WRITABLE'}"
    rows["variables"] = " ".join(f"{name}={value}" for name, value in about["environment"].items()) or "none set"
    yield from (f"{name:14} {text}" for name, text in rows.items())


def _gpus() -> Iterator[str]:
    """Names and sizes, as PyTorch finds them."""
    if not system.torch_knows_gpus():
        return
    import torch

    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        kind = getattr(found, "gcnArchName", f"sm_{found.major}{found.minor}")
        size = f"{found.multi_processor_count} multiprocessors, {found.total_memory / 2**30:.0f} GiB"
        yield f"{found.name}, {kind}, {size}"


def _backends(has_gpu: bool) -> dict[str, str]:
    """Which backends would compute here, and what the others lack."""
    if find_spec("triton") is None:
        triton = "no: the package triton is not installed"
    elif system.interpreting():
        triton = "interpreted, on the CPU: TRITON_INTERPRET is set"
    else:
        triton = "yes" if has_gpu else "no: no GPU"
    numba = "yes" if find_spec("numba") else "no: pip install 'cofm-triton[cpu]' brings numba; PyTorch computes instead"
    return {"triton": triton, "numba": numba, "torch": "yes" if find_spec("torch") else "no: PyTorch is not installed"}
