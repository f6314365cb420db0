"""A folder for what Triton compiles, which it loads from files and cannot do without."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from functools import cache

from triton import knobs


@cache
def ensure_folder() -> None:
    """Give Triton a temporary folder, with a warning, where its own cannot be written: as without a home.

    Interpreted kernels need none, and a manager of the user's keeps what is compiled somewhere else.
    """
    if knobs.runtime.interpret or "TRITON_CACHE_MANAGER" in os.environ:
        return
    try:
        os.makedirs(knobs.cache.dir, exist_ok=True)
        tempfile.TemporaryFile(dir=knobs.cache.dir).close()
    except OSError as error:
        folder = tempfile.mkdtemp(prefix="triton-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        warnings.warn(
            f"Triton's kernels cannot be kept in its cache folder ({error}) and go to {folder}: every process compiles "
            "them anew. Set the environment variable TRITON_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=3,
        )
        knobs.cache.dir = folder
