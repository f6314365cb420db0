"""Machine code on disk, for several processes at a time: numba's cache, with other file names and another order.

numba numbers the files of a function's code and writes down the number before the code. Two processes that compile at
once, as those of `torchrun` do, may pick the same number for code of different signatures, and one that looks in
between finds what an older version left under it: either way it runs code that was made for other arguments. Here a
file is named by a digest of what it is for and written first; the worst that may happen is a compilation too many.

Code is discarded when any file that it may come from changes, not only the file of the function: one compiled function
contains those that it calls, and the numbers and names that it was made with. Files that no index names, of code that
was discarded, are removed when they have lain for an hour.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from numba.core.caching import IndexDataCacheFile

PACKAGE = Path(__file__).parents[2]
# A file younger than this may be one that another process is about to name.
STALE_SECONDS = 3600


class CodeFiles(IndexDataCacheFile):
    """The code of one function for all its signatures."""

    def save(self, key: Any, data: Any) -> None:
        """Keep `data`, what `load(key)` gives from now on."""
        base = self._index_name.removesuffix(".nbi")
        purpose = repr((key, self._source_stamp)).encode()
        name = f"{base}.{hashlib.sha256(purpose).hexdigest()[:16]}.nbc"
        self._save_data(name, data)
        # Read now: what another process has saved meanwhile stays known, but for an instant.
        named = self._load_index() | {key: name}
        self._save_index(named)
        self._remove_all_but(set(named.values()), base)

    def _remove_all_but(self, named: set[str], base: str) -> None:
        for path in Path(self._cache_path).glob(f"{base}.*.nbc"):
            with suppress(OSError):  # another process removed it, or still reads it
                if path.name not in named and time.time() - path.stat().st_mtime > STALE_SECONDS:
                    path.unlink()


def source_files() -> list[Path]:
    """Every file that compiled code may come from: these, and the modules of tables and formulas above them."""
    return sorted((*PACKAGE.glob("*.py"), *Path(__file__).parent.glob("*.py")))


@cache
def sources() -> str:
    """A digest of what is in `source_files`."""
    digest = hashlib.sha256()
    for file in source_files():
        text = file.read_bytes()
        digest.update(f"{file.relative_to(PACKAGE)} {len(text)}\n".encode() + text)
    return digest.hexdigest()


def keep_safely(compiled: Any) -> Any:
    """`compiled`, a function of numba with `cache=True`, with its code in `CodeFiles`."""
    numbered = compiled._cache._cache_file
    base = numbered._index_name.removesuffix(".nbi")
    compiled._cache._cache_file = CodeFiles(numbered._cache_path, base, sources())
    return compiled
