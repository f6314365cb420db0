"""Machine code on disk, safe for several processes at a time: numba's cache with other file names and another order.

The fault of numba's own cache: it numbers the files of a function's code, and writes the number into its index before
the code. Two processes that compile at once, as under `torchrun`, may take the same number for different signatures. A
process that reads in between finds older code under the number. Either way it runs code made for other arguments. Here
a file is named by a digest of what it is for, and written before its entry in the index. The worst case is one
compilation too many.

Code becomes invalid when any file that it may contain code of changes, not only the function's own: a compiled function
contains the functions that it calls. Files that no index names are removed after an hour.

The disk only saves time. Without a folder, on a full disk, or with a damaged file, functions are compiled; one warning
says when code cannot be kept. Every file begins with a digest of the rest, because damaged machine code would end the
process.
"""

from __future__ import annotations

import hashlib
import pickle
import time
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile

from cofm_triton.support.files import check_regular, write_bytes

PACKAGE = Path(__file__).parents[2]
# A younger file may be one whose entry another process is about to write.
STALE_SECONDS = 3600
_DIGEST = hashlib.sha256().digest_size


class CodeFiles(IndexDataCacheFile):
    """The code of one function for all its signatures."""

    def load(self, key: Any) -> Any:
        """What was saved under `key`; None if there is nothing, or if it is damaged."""
        name = self._load_index().get(key)
        return None if name is None else self._load_data(name)

    def save(self, key: Any, data: Any) -> None:
        """Keep `data`, so that `load(key)` returns it."""
        base = self._index_name.removesuffix(".nbi")
        purpose = repr((key, self._source_stamp)).encode()
        name = f"{base}.{hashlib.sha256(purpose).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        # Read now: what another process has saved meanwhile stays known, but for an instant.
        named = self._load_index() | {key: name}
        self._save_index(named)
        self._remove_all_but(set(named.values()), base)

    def _load_index(self) -> dict[Any, str]:
        stamp, named = self._read(self._index_path) or (None, {})
        return named if stamp == self._source_stamp else {}

    def _save_index(self, named: dict[Any, str]) -> None:
        self._write(self._index_path, (self._source_stamp, named))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        """What `_write` wrote, if it was this version of numba; otherwise None."""
        try:
            check_regular(path)
            content = Path(path).read_bytes()
        except OSError:
            return None
        digest, content = content[:_DIGEST], content[_DIGEST:]
        return pickle.loads(content) if digest == self._digest(content) else None

    def _write(self, path: str, value: Any) -> None:
        content = self._dump(value)
        write_bytes(path, self._digest(content) + content)

    def _digest(self, content: bytes) -> bytes:
        return hashlib.sha256(self._version.encode() + content).digest()

    def _remove_all_but(self, named: set[str], base: str) -> None:
        for path in Path(self._cache_path).glob(f"{base}.*.nbc"):
            with suppress(OSError):  # another process removed it, or still reads it
                if path.name not in named and time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


class CodeCache(FunctionCache):
    """The cache interface that numba calls for a function. It never raises, whatever the state of the folder."""

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        base = self._cache_file._index_name.removesuffix(".nbi")
        self._cache_file = CodeFiles(self._cache_path, base, sources())

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The code for a signature, None where it has to be compiled."""
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whole, but not what this version of our packages makes
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep the code for a signature, or warn."""
        try:
            super().save_overload(sig, data)
        except Exception as error:
            _warn(error)


def source_files() -> list[Path]:
    """Every file that compiled code may come from: these, and the modules of tables and formulas above them."""
    return sorted((*(PACKAGE / "step").rglob("*.py"), *Path(__file__).parent.glob("*.py")))


@cache
def sources() -> str:
    """A digest of what is in `source_files`."""
    digest = hashlib.sha256()
    for file in source_files():
        text = file.read_bytes()
        digest.update(f"{file.relative_to(PACKAGE)} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def keep_safely(compiled: Any) -> Any:
    """`compiled`, a function of numba, with its code on disk where there is a folder for it."""
    try:
        compiled._cache = CodeCache(compiled.py_func)
    except (OSError, RuntimeError) as error:  # numba found no folder that can be written
        _warn(error)
    return compiled


_warned = False


def _warn(error: Exception) -> None:
    """Say why code is not kept, once for all functions."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"compiled code cannot be kept on disk, every process will compile it anew: {error}. Set the environment "
            "variable NUMBA_CACHE_DIR to a folder that can be written",
            RuntimeWarning,
            stacklevel=2,
        )
