"""What becomes of a broken checkout: its tests, in processes that begin as copies of one with everything loaded."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from mutation.mutants import Mutant

PROCESSES = multiprocessing.get_context("forkserver")
LOADED = ["torch", "triton", "numba", "hypothesis", "pytest"]  # which takes longer than most tests


def load(cache: Path) -> None:
    """Before the first trial: what all processes begin with, and where they keep compiled code."""
    os.environ |= {"NUMBA_CACHE_DIR": str(cache), "TRITON_INTERPRET": "1"}  # read while modules are loaded
    PROCESSES.set_forkserver_preload(LOADED)


class Trial:
    """The tests of a file: first a slice, in which most mutants die, then all of them.

    Args:
        copy: the checkout that is broken.
        file: the file that is.
        text: what it is when whole.
        tests: files of tests.
    """

    def __init__(self, copy: Path, file: str, text: str, tests: Sequence[str]) -> None:
        self._copy, self._path, self._text, self._tests = copy, copy / file, text, tests
        self._seconds: float | None = None

    def outcome(self, mutant: Mutant, argued: bool) -> str:
        """What becomes of a mutant.

        Args:
            mutant: of the file.
            argued: there is a reason why nobody could see it: it has to live through the slice alone.

        Returns:
            "killed", "timed out", "equivalent" or "survived"; "untested" if the slice fails as it is.
        """
        if self._seconds is None:
            begin = time.monotonic()
            if _run(self._copy, self._slice, None) != "survived":
                return "untested"
            self._seconds = time.monotonic() - begin
        self._path.write_text(mutant.text)
        try:
            found = _run(self._copy, self._slice, 60 + 5 * self._seconds)
            if found == "survived":
                found = "equivalent" if argued else _run(self._copy, self._tests, 600 + 50 * self._seconds)
            return found
        finally:
            self._path.write_text(self._text)

    @property
    def _slice(self) -> Sequence[str]:
        return *self._tests, "--quick"


def _run(copy: Path, tests: Sequence[str], limit: float | None) -> str:
    """What becomes of a broken copy: "killed", "timed out" or "survived"."""
    process = PROCESSES.Process(target=_test, args=(copy, tests))
    process.start()
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        process.join()
        return "timed out"
    return "survived" if process.exitcode == 0 else "killed"


def _test(copy: Path, tests: Sequence[str]) -> None:
    """Run tests with the copy's code, silently; the exit status is pytest's."""
    import pytest

    for descriptor in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    os.chdir(copy)
    sys.path.insert(0, str(copy))
    os.environ["PYTHONPATH"] = str(copy)  # of the processes that tests start
    os._exit(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests]))
