"""Problems in Triton's interpreter: a process of its own, since Triton decides at its import whether it interprets.

`python -m cofm_triton.validation.interpreter` reads `{"problems": [...], "fault": ...}` from standard input and writes
a line of JSON per outcome.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from cofm_triton.ops import backends
from cofm_triton.validation.check import Outcome, check
from cofm_triton.validation.fault import injected
from cofm_triton.validation.place import INTERPRETER, Place
from cofm_triton.validation.problem import Problem

PLACE = Place("triton", INTERPRETER)
# Launches split time as on a GPU with so many multiprocessors (an H100's).
MULTIPROCESSORS = 132


class InterpreterRun:
    """Problems under way in the interpreter.

    Args:
        problems: what to run.
        fault: see `fault.injected`.
    """

    def __init__(self, problems: Sequence[Problem], fault: str | None) -> None:
        self._expected = len(problems)
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "TRITON_INTERPRET": "1"},
            text=True,
        )
        task = {"problems": [problem.text for problem in problems], "fault": fault}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(task))
        self._process.stdin.close()

    def outcomes(self) -> Iterator[Outcome]:
        """Outcomes as they come.

        Raises:
            RuntimeError: the process ended before its last outcome.
        """
        assert self._process.stdout is not None
        count = 0
        for line in self._process.stdout:
            count += 1
            yield Outcome.from_dict(json.loads(line))
        status = self._process.wait()
        if count < self._expected or status != 0:
            raise RuntimeError(f"Triton's interpreter ended with status {status} after {count} of {self._expected}")

    def close(self) -> None:
        """End the process, if it still runs."""
        self._process.kill()
        self._process.wait()


def search_once() -> None:
    """Let kernels of ours call each other without preparation.

    Whenever a kernel calls a function, the interpreter searches all of Triton's language for what it replaces; the
    launch of a kernel of ours has replaced it already. Without the search, kernels take a fifth of the time.
    """
    from triton.runtime.interpreter import InterpretedFunction

    call = InterpretedFunction.__call__

    def call_ours(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.fn.__module__.startswith("cofm_triton."):
            return self.rewrite()(*arguments, **options)
        return call(self, *arguments, **options)

    InterpretedFunction.__call__ = call_ours


def main() -> None:
    """Run what standard input asks for."""
    task = json.load(sys.stdin)
    search_once()
    backends.INTERPRETED_MULTIPROCESSORS = MULTIPROCESSORS
    with injected(task["fault"], [PLACE]):
        for text in task["problems"]:
            for outcome in check(Problem.parse(text), [PLACE]):
                print(json.dumps(outcome.as_dict()), flush=True)


if __name__ == "__main__":
    main()
