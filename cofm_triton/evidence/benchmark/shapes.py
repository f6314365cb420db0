"""The studies' shapes, (B, T, D), in one place."""

from __future__ import annotations

Shape = tuple[int, int, int]

LENGTHS = tuple(2**k for k in range(8, 21, 3))
FIXED_SIZE_STUDY, FIXED_BATCH_STUDY = "fixed size", "fixed batch"
ELEMENTS = 2**23
CHANNELS = 64
FEW_CHANNELS = 32


def fixed_size(length: int, elements: int = ELEMENTS) -> Shape:
    """Time per element should not depend on T: as T grows, first the batch shrinks, then the channels."""
    return max(1, elements // (length * CHANNELS)), length, max(1, min(CHANNELS, elements // length))


def fixed_batch(length: int) -> Shape:
    """One sequence that grows: what a longer sequence costs, from where a call's fixed cost rules."""
    return 1, length, FEW_CHANNELS


FIXED_SIZE: tuple[Shape, ...] = tuple(map(fixed_size, LENGTHS))
FIXED_BATCH: tuple[Shape, ...] = tuple(map(fixed_batch, LENGTHS))

# Many channels, long, many rows, very long with few channels: the targets of the linear scan are set at these.
TARGETS: tuple[Shape, ...] = ((8, 4096, 256), (2, 65536, 64), (16, 1024, 512), (1, 1048576, 8))

# Odd sizes, since the smoke test also compares results; few steps, since some peers compile for every one.
SMOKE: Shape = (2, 7, 3)
