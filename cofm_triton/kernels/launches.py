"""How kernels are launched: all go through `launch`, so that `ops/launch_plan.py` can note what a call launches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from typing import Any, NamedTuple

from triton import knobs
from triton.runtime import driver

_here = threading.local()  # `tell`: who hears of this thread's launches

STREAM = object()  # stands for the current stream in the arguments of a launch


class Launched(NamedTuple):
    """A launch that `call(*arguments, **options)` makes again; that of a compiled kernel, past Triton's binder.

    `is_bare`: the call is one of a C function, which takes addresses in place of tensors.
    """

    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    is_bare: bool = False


def launch(kernel: Any, grid: tuple[int]) -> Callable[..., Any]:
    """`launch(kernel, grid)(...)` is Triton's `kernel[grid](...)`."""
    tell = getattr(_here, "tell", None)
    found: Callable[..., Any] = kernel[grid] if tell is None else partial(_told, tell, kernel, grid)
    return found


def _told(tell: Callable[[Launched], None], kernel: Any, grid: tuple[int], *arguments: Any, **options: Any) -> None:
    compiled = kernel[grid](*arguments, **options)
    if compiled is None:  # the interpreter has run it
        tell(Launched(kernel[grid], arguments, options))
        return
    named = {name: value for name, value in options.items() if name in kernel.signature.parameters}
    bound = kernel.signature.bind(*arguments, **named).arguments.values()
    # As Triton's `JITFunction.run` ends, without metadata and hooks: see `followed`.
    binary = (STREAM, compiled.function, compiled.packed_metadata, None, None, None)
    tell(_bare(Launched(compiled.run, (*grid, 1, 1, *binary, *bound), {})))


def _bare(launched: Launched) -> Launched:
    """The call of a C function that Triton's launcher, an object in Python, would make: what it hands on is asked of a
    copy of it. One that has to make room for the launch is called itself.
    """
    launcher = launched.call
    needs = ("global_scratch_size", "profile_scratch_size", "gsan_enabled")
    if not hasattr(launcher, "launch") or any(getattr(launcher, name, 0) for name in needs):
        return launched
    handed: list[Launched] = []
    asked: Any = copy(launcher)
    asked.launch = lambda *arguments, **options: handed.append(Launched(launcher.launch, arguments, options, True))
    asked(*launched.arguments)
    return handed[0]


@contextmanager
def telling(tell: Callable[[Launched], None]) -> Iterator[None]:
    """Inside, `tell` hears of all launches of this thread."""
    _here.tell = tell
    try:
        yield
    finally:
        _here.tell = None


def followed() -> bool:
    """Whether somebody is to hear of every launch: a plan in the making, or from Triton, such as a profiler."""
    enter, leave = knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook
    hooked = getattr(enter, "calls", enter) or getattr(leave, "calls", leave)
    return bool(hooked) or getattr(_here, "tell", None) is not None


def current_stream(device: int) -> int:
    """PyTorch's current stream of a GPU, as a launcher takes it."""
    stream: int = driver.active.get_current_stream(device)
    return stream
