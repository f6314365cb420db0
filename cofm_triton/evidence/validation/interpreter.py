"""Triton's interpreter: our kernels on CPU tensors, in processes in which nothing has imported Triton before."""

from __future__ import annotations

import os
from typing import Any

from cofm_triton.ops import backends

# Launches split time as on a GPU with so many multiprocessors (an H100's).
MULTIPROCESSORS = 132


def interpret() -> None:
    """From here on this process interprets kernels, as if for a GPU. Triton decides that once, at its import."""
    os.environ["TRITON_INTERPRET"] = "1"
    backends.INTERPRETED_MULTIPROCESSORS = MULTIPROCESSORS
    if backends.INSTALLED["triton"]:
        search_once()


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
