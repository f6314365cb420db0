"""Progress: bars on a terminal, lines with counts anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cofm_triton.support.progress import Progress as OnProgress

# Seconds between lines, at the least: a log of hours stays readable.
_SECONDS = 10.0


class Progress:
    """Prints what happens: lines to the log, and how much is done of the step under way.

    Everything goes to standard error; standard output carries the results alone.

    Args:
        quiet: print nothing at all.
    """

    def __init__(self, quiet: bool) -> None:
        self._speak = not quiet
        self._draw = self._speak and sys.stderr.isatty()

    def line(self, text: str) -> None:
        """Print one line, unless quiet."""
        if self._speak:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def bar(self, label: str) -> Iterator[OnProgress]:
        """A bar for one step, or lines; the block calls what it is given with (done, total).

        Args:
            label: what is being done.
        """
        if not self._draw:
            self.line(label)
            yield self._lines(label)
            return
        from tqdm import tqdm

        with tqdm(desc=label, leave=True, dynamic_ncols=True, file=sys.stderr) as bar:

            def on_step(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield on_step

    def _lines(self, label: str) -> OnProgress:
        """Prints a line every `_SECONDS`, and one at the end."""
        said, last = time.monotonic(), 0

        def on_step(done: int, total: int) -> None:
            nonlocal said, last
            now = time.monotonic()
            if done != last and (done == total or now - said >= _SECONDS):
                said, last = now, done
                self.line(f"{label}: {done}/{total}")

        return on_step
