"""What the system has: the processor, installed versions, folders of compiled code. Nothing of PyTorch is imported."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

PACKAGE = Path(__file__).parents[1]


class CacheFolder(NamedTuple):
    """Where compiled code is kept.

    Attributes:
        path: of the folder.
        files: of compiled code in it.
        size: of these, bytes.
        writable: whether more can be kept.
    """

    path: Path
    files: int
    size: int
    writable: bool


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """The processor's name; Linux keeps it in a file, other systems in `platform`."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Those of the packages that are installed.

    Example:
        >>> list(versions(["torch", "no-such-package"]))
        ['torch']
    """
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    if "torch" in found:  # PyPI's metadata of it does not name the build, as in 2.8.0+cu128
        found["torch"] = _torch_versions().get("__version__", found["torch"])
    return found


def torch_knows_gpus() -> bool:
    """Whether the installed PyTorch was built for GPUs."""
    names = _torch_versions()
    return any(names.get(name) is not None for name in ("cuda", "hip", "xpu"))


def _torch_versions() -> dict[str, Any]:
    """What PyTorch's own file of versions says; importing PyTorch takes seconds."""
    spec = find_spec("torch")
    names: dict[str, Any] = {}
    if spec is not None and spec.origin is not None:
        exec((Path(spec.origin).parent / "version.py").read_text(encoding="utf-8"), names)
    return names


def interpreting() -> bool:
    """Whether Triton kernels run in Triton's interpreter, on CPU tensors (`TRITON_INTERPRET=1`)."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on", "yes", "y")


def compiler() -> str | None:
    """The C compiler that Triton would take to build its launchers: CC, or the first of gcc, clang and cc."""
    return os.environ.get("CC") or next((path for name in ("gcc", "clang", "cc") if (path := shutil.which(name))), None)


def numba_folder() -> CacheFolder:
    """Of the compiled loops: NUMBA_CACHE_DIR, or beside their sources."""
    beside = PACKAGE / "cpu" / "jit" / "__pycache__"
    return _looked_at(Path(os.environ.get("NUMBA_CACHE_DIR") or beside), "*.nbc")


def triton_folder() -> CacheFolder:
    """Of the kernels: TRITON_CACHE_DIR, or .triton/cache in TRITON_HOME or the user's folder."""
    home = Path(os.environ.get("TRITON_HOME") or Path.home())
    return _looked_at(Path(os.environ.get("TRITON_CACHE_DIR") or home / ".triton" / "cache"), "*")


def _looked_at(path: Path, pattern: str) -> CacheFolder:
    files = [file for file in path.rglob(pattern) if file.is_file()]
    return CacheFolder(path, len(files), sum(file.stat().st_size for file in files), _can_be_written(path))


def _can_be_written(path: Path) -> bool:
    """Tried, in the folder or where it would be made: permissions alone do not tell."""
    existing = next(folder for folder in (path, *path.parents) if folder.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            return True
    except OSError:
        return False
