"""Ahead-of-time compilation: launches that stop when their kernel is compiled.

A driver that only names its target stands in for the GPU's. Runs in a process of its own, without TRITON_INTERPRET,
which Triton reads when it is imported.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from cofm_triton.evidence.compilation.devices import DEVICES
from cofm_triton.evidence.compilation.launches import Options, label
from cofm_triton.evidence.compilation.machine_code import read
from cofm_triton.evidence.registry import compilations

TARGETS = tuple(DEVICES)


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one kernel.

    Attributes:
        target: in `TARGETS`.
        operator: that launches it.
        kernel: function's name.
        configuration: of the launch, as text.
        constants: compile-time constants, and num_warps.
        registers: per thread.
        spilled: bytes (NVIDIA) or registers (AMD) that did not fit.
        shared: bytes of shared memory per program.
        instructions: thread-instructions per element of the loop along time, by class; empty without such a loop.
        accesses: accesses to global memory per element, by name such as `load 16`.
        bytes: per element by the operator's traffic model; None for a kernel that does part of a pass.
        hash: the name under which Triton caches it: of its source and of all it calls, of types, options, GPU, Triton.
    """

    target: str
    operator: str
    kernel: str
    configuration: str
    constants: dict[str, Any]
    registers: int
    spilled: int
    shared: int
    instructions: dict[str, float] = field(default_factory=dict)
    accesses: dict[str, float] = field(default_factory=dict)
    bytes: float | None = None
    hash: str = ""

    @property
    def key(self) -> str:
        """What tells it from every other kernel of its target, however its launch is tuned."""
        flags = [name for name, value in sorted(self.constants.items()) if value is True]
        return f"{self.kernel} [{self.configuration}] {' '.join(flags)}"

    @property
    def total(self) -> float | None:
        """Thread-instructions per element; None without a loop."""
        return sum(self.instructions.values()) if self.instructions else None

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON; `Compiled(**content)` is the inverse."""
        return asdict(self)


def parse_targets(text: str) -> tuple[str, ...]:
    """Targets from a comma-separated list.

    Raises:
        ValueError: an unknown one; the message lists what there is.

    Example:
        >>> parse_targets("sm_90,gfx942")
        ('sm_90', 'gfx942')
    """
    names = tuple(text.split(","))
    for name in names:
        if name not in TARGETS:
            raise ValueError(f"target must be one of {', '.join(TARGETS)}, got {name!r}")
    return names


def prepare() -> None:
    """Make this process one that compiles; before anything imports a kernel."""
    os.environ.pop("TRITON_INTERPRET", None)
    os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"  # fused multiply-adds, which newer Tritons want asked for
    from cofm_triton.kernels.cache_folder import ensure_folder

    ensure_folder()


def compile_configuration(
    target: str, operator: str, options: Options, known: Mapping[str, Compiled]
) -> list[Compiled]:
    """Compile every kernel that one configuration of an operator launches, once.

    Args:
        target: in `TARGETS`.
        operator: that launches them.
        options: of the configuration.
        known: kernels by `hash`, which are not compiled again: to Triton, too, the same hash is the same machine code.
    """
    found: dict[str, Compiled] = {}
    for name, constants, kernel in _kernels(target, operator, options, known):
        if kernel.hash in found:
            continue
        if kernel.hash in known:
            moved = compilations()[operator].bytes_per_element(name, _constants(constants), options)
            found[kernel.hash] = replace(
                known[kernel.hash], operator=operator, configuration=label(options), bytes=moved
            )
        else:
            found[kernel.hash] = _describe(target, operator, options, name, constants, kernel)
    return list(found.values())


def _kernels(
    target: str, operator: str, options: Options, known: Container[str]
) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """`(function's name, launch options, compiled kernel)` of every launch."""
    launched: list[tuple[str, dict[str, Any], Any]] = []
    with _compiling(target, launched, known):
        compilations()[operator].launch(**options)
    yield from launched


class _Known(NamedTuple):
    """In place of a compiled kernel of which everything is known."""

    hash: str


def _compile_unknown(known: Container[str], source: Any, target: Any, options: dict[str, Any]) -> Any:
    """`triton.compile`, but for what is known by the name that it would be cached under; Triton 3.4 tells no name."""
    import triton
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.compiler import make_backend

    try:
        from triton.runtime.cache import get_cache_key
    except ImportError:
        return triton.compile(source, target=target, options=options)
    backend = make_backend(target)
    key = get_cache_key(source, backend, backend.parse_options(dict(options)), get_cache_invalidating_env_vars())
    name = hashlib.sha256(key.encode()).hexdigest()
    return _Known(name) if name in known else triton.compile(source, target=target, options=options)


@contextmanager
def _compiling(target: str, launched: list[tuple[str, dict[str, Any], Any]], known: Container[str]) -> Iterator[None]:
    """Launches compile for the target what is not known, are noted down, and go no further."""
    from triton.runtime import driver
    from triton.runtime.jit import JITFunction

    offline = _OfflineDriver(target)
    driver.set_active(offline)
    launch = JITFunction.run

    def compile_only(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        self.device_caches[offline.number]  # is made at the first look, and sets what compiles
        self.compile = partial(_compile_unknown, known)
        kernel = launch(self, *arguments, grid=grid, warmup=True, **options)
        launched.append((self.fn.__name__, options, kernel))
        return kernel

    JITFunction.run = compile_only
    try:
        yield
    finally:
        JITFunction.run = launch


class _OfflineDriver:
    """All of a driver that compiling takes."""

    def __init__(self, target: str) -> None:
        from triton.backends.compiler import GPUTarget

        device = DEVICES[target]
        self.number = TARGETS.index(target)  # what Triton keeps compiled kernels under
        self.target = GPUTarget(*device.target, device.lanes)

    def get_current_target(self) -> Any:
        return self.target

    def get_current_device(self) -> int:
        return self.number

    def get_current_stream(self, device: int) -> int:
        return 0


def _describe(target: str, operator: str, options: Options, name: str, launch: dict[str, Any], kernel: Any) -> Compiled:
    resources, loop = read(kernel.asm, kernel.metadata.shared)
    constants = _constants(launch)
    threads = DEVICES[target].lanes * constants["num_warps"]
    elements = compilations()[operator].elements(constants) / threads
    return Compiled(
        target=target,
        operator=operator,
        kernel=name,
        configuration=label(options),
        constants={key: _plain(value) for key, value in constants.items()},
        registers=resources.registers,
        spilled=resources.spilled,
        shared=resources.shared,
        instructions={} if loop is None else {k: n / elements for k, n in loop.instructions.items()},
        accesses={} if loop is None else {k: n / elements for k, n in loop.accesses.items()},
        bytes=compilations()[operator].bytes_per_element(name, constants, options),
        hash=kernel.hash,
    )


def _constants(launch: Mapping[str, Any]) -> dict[str, Any]:
    """What a kernel is compiled with: its constants, and num_warps."""
    return {key: value for key, value in launch.items() if key.isupper() or key == "num_warps"}


def _plain(value: Any) -> Any:
    """For JSON: Triton's dtypes by name."""
    return value if isinstance(value, bool | int | float | str) else str(value)
