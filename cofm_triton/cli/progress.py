"""Progress on a terminal, and silence anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cofm_triton.training import OnStep


class Progress:
    """Prints what happens: lines to the log, and a bar for the step under way on a terminal.

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
    def bar(self, label: str) -> Iterator[OnStep]:
        """A bar for one step; the block calls what it is given with (done, total).

        Args:
            label: what is being done.
        """
        if not self._draw:
            self.line(label)
            yield lambda done, total: None
            return
        from tqdm import tqdm

        with tqdm(desc=label, leave=True, dynamic_ncols=True, file=sys.stderr) as bar:

            def on_step(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield on_step
