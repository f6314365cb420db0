"""The studies' shapes, (B, T, D), in one place."""

from __future__ import annotations

Shape = tuple[int, int, int]

LENGTHS = tuple(2**k for k in range(8, 21, 3))
ELEMENTS = 2**23
CHANNELS = 64
FEW_CHANNELS = 32

# Time per element should not depend on T: as T grows, first the batch shrinks, then the channels.
FIXED_SIZE: tuple[Shape, ...] = tuple(
    (max(1, ELEMENTS // (T * CHANNELS)), T, min(CHANNELS, ELEMENTS // T)) for T in LENGTHS
)

# One sequence that grows: what a longer sequence costs, from where a call's fixed cost rules.
FIXED_BATCH: tuple[Shape, ...] = tuple((1, T, FEW_CHANNELS) for T in LENGTHS)

# Many channels, long, many rows, very long with few channels: the targets of the linear scan are set at these.
TARGETS: tuple[Shape, ...] = ((8, 4096, 256), (2, 65536, 64), (16, 1024, 512), (1, 1048576, 8))

# Odd sizes, since the smoke test also compares results; few steps, since some peers compile for every one.
SMOKE: Shape = (2, 7, 3)
