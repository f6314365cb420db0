"""The cases that are validated, and the tensors drawn for each."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import torch

from cofm_triton.evidence.case import PACKED, PLAIN, STATES, STRIDED, Case, Shape
from cofm_triton.evidence.draws import starts
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.registry import validations

# One step; two; odd everything; several blocks of time; enough work for two threads, which share the last sequence.
# Narrow rows have one width, and so has what blocks of 32 channels leave of wide ones: the CPU's kernels compile anew
# for each.
SHAPES: tuple[tuple[Shape, str], ...] = (
    ((1, 1, 3), PLAIN),
    ((3, 2, 3), STATES),
    ((2, 33, 35), f"{STATES}+{STRIDED}"),
    ((1, 257, 3), PLAIN),
    ((3, 90, 131), STATES),
)
# Triton's interpreter takes some milliseconds a row.
INTERPRETED: tuple[tuple[Shape, str], ...] = (
    ((1, 1, 1), PLAIN),
    ((2, 18, 5), f"{STATES}+{STRIDED}"),
)
# So many steps of so few channels are walked in segments, as on a GPU.
SPLIT: tuple[Shape, str] = ((1, 150, 3), STATES)
# The others take the same paths: a quick run tries narrow rows and split time in these alone.
TELLING_DTYPES = (torch.bfloat16, torch.float32, torch.complex64)
NARROW = 32
EXHAUSTIVE: tuple[tuple[Shape, str], ...] = (
    ((2, 0, 3), STATES),
    ((1, 7, 1), STRIDED),
    ((4, 64, 64), PLAIN),
    ((1, 31, 500), STATES),
    ((2, 127, 256), f"{STATES}+{STRIDED}"),
    ((1, 1025, 8), STATES),
    ((7, 5, 1000), PLAIN),
    ((1, 2047, 2), STRIDED),
)
RANDOM_SHAPES = 12


def cases(chosen: tuple[str, ...], seed: int, *, interpreted: bool, exhaustive: bool) -> Iterator[Case]:
    """The cases of some operators.

    Args:
        chosen: names of operators.
        seed: equal seeds give equal cases; every case has a seed of its own.
        interpreted: those that Triton's interpreter has time for.
        exhaustive: many more.
    """
    for name in chosen:
        entry = validations()[name]
        for variant, dtype in product(entry.draws, entry.dtypes):
            packed = PACKED in variant.split("+")
            thorough = exhaustive or dtype in TELLING_DTYPES
            shapes = [*INTERPRETED, *([SPLIT] if entry.splits and not packed and thorough else [])]
            if not interpreted:
                shapes = [(shape, layout) for shape, layout in SHAPES if thorough or shape[2] > NARROW]
            if exhaustive:
                shapes += SHAPES[1:4] if interpreted else (*EXHAUSTIVE, *_random_shapes(seed))
            for index, (shape, layout) in enumerate(shapes):
                if shape[2] <= (entry.largest or shape[2]):
                    size = (1, shape[0] * shape[1], shape[2]) if packed else shape
                    yield Case(name, variant, size, dtype, layout, seed * len(shapes) + index)


def draw(case: Case) -> Problem:
    """The tensors of a case.

    Raises:
        ValueError: there is no such operator or variant, or it takes no such dtype; the message lists what there is.
    """
    if case.operator not in validations():
        raise ValueError(f"operator must be one of {', '.join(validations())}, got {case.operator!r}")
    entry = validations()[case.operator]
    if case.variant not in entry.draws:
        variants = ", ".join(entry.draws)
        raise ValueError(f"variant of {case.operator} must be one of {variants}, got {case.variant!r}")
    if case.dtype not in entry.dtypes:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in entry.dtypes)
        raise ValueError(f"dtype of {case.operator} must be one of {names}, got {case.dtype_name!r}")
    layout, packed = case.layout.split("+"), PACKED in case.variant.split("+")
    options = dict(starts=starts(case.shape[1], case.seed)) if packed else {}
    problem = entry.draws[case.variant](
        *case.shape, dtype=case.dtype, states=STATES in layout, seed=case.seed, **options
    )
    return problem.strided() if STRIDED in layout else problem


def _random_shapes(seed: int) -> Iterator[tuple[Shape, str]]:
    generator = torch.Generator().manual_seed(seed)
    layouts = (PLAIN, STATES, STRIDED, f"{STATES}+{STRIDED}")
    for index in range(RANDOM_SHAPES):
        batch, length, channels = (int(torch.randint(1, most, (), generator=generator)) for most in (6, 400, 200))
        yield (batch, length, channels), layouts[index % len(layouts)]
