"""Machine code on disk, for several processes at a time: numba's cache, with other file names and another order.

numba numbers the files of a function's code and writes down the number before the code. Two processes that compile at
once, as those of `torchrun` do, may pick the same number for code of different signatures, and one that looks in
between finds what an older version left under it: either way it runs code that was made for other arguments. Here a
file is named by a digest of what it is for and written first; the worst that may happen is a compilation too many.

Code is discarded when any file beside this one changes, not only the file of the function: one compiled function
contains those that it calls.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile


class CodeFiles(IndexDataCacheFile):
    """The code of one function for all its signatures."""

    def save(self, key: Any, data: Any) -> None:
        """Keep `data`, what `load(key)` gives from now on."""
        name = f"{self._index_name.removesuffix('.nbi')}.{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        # Read now: what another process has saved meanwhile stays known, but for an instant.
        self._save_index(self._load_index() | {key: name})


@cache
def sources() -> tuple[tuple[str, int, int], ...]:
    """Name, time of change and size of every file that compiled code may come from."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return tuple((file.name, (status := file.stat()).st_mtime_ns, status.st_size) for file in files)


def keep_safely(compiled: Any) -> Any:
    """`compiled`, a function of numba with `cache=True`, with its code in `CodeFiles`."""
    numbered = compiled._cache._cache_file
    base, stamp = numbered._index_name.removesuffix(".nbi"), (numbered._source_stamp, sources())
    compiled._cache._cache_file = CodeFiles(numbered._cache_path, base, stamp)
    return compiled
