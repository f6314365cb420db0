"""The operators that are validated, and the problems each of them is given."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from itertools import product
from pkgutil import iter_modules

import torch

from cofm_triton.evidence.validation import operators as folder
from cofm_triton.evidence.validation.draws import starts
from cofm_triton.evidence.validation.problem import PACKED, PLAIN, STATES, STRIDED, Checkable, Operator, Problem

Shape = tuple[int, int, int]

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
# So many steps of so few channels are split in time, as on a GPU.
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


@cache
def operators() -> dict[str, Operator]:
    """The `OPERATOR` of every file in the folder."""
    found = [import_module(f"{folder.__name__}.{name}").OPERATOR for _, name, _ in iter_modules(folder.__path__)]
    return {operator.name: operator for operator in found}


def problems(chosen: tuple[str, ...], seed: int, *, interpreted: bool, exhaustive: bool) -> Iterator[Problem]:
    """The problems of some operators.

    Args:
        chosen: names of operators.
        seed: equal seeds give equal problems; every problem has a seed of its own.
        interpreted: those that Triton's interpreter has time for.
        exhaustive: many more.
    """
    for name in chosen:
        operator = operators()[name]
        for variant, dtype in product(operator.draws, operator.dtypes):
            packed = PACKED in variant.split("+")
            thorough = exhaustive or dtype in TELLING_DTYPES
            shapes = [*INTERPRETED, *([SPLIT] if operator.splits and not packed and thorough else [])]
            if not interpreted:
                shapes = [(shape, layout) for shape, layout in SHAPES if thorough or shape[2] > NARROW]
            if exhaustive:
                shapes += SHAPES[1:4] if interpreted else (*EXHAUSTIVE, *_random_shapes(seed))
            for index, (shape, layout) in enumerate(shapes):
                if shape[2] <= (operator.largest or shape[2]):
                    size = (1, shape[0] * shape[1], shape[2]) if packed else shape
                    text = str(dtype).removeprefix("torch.")
                    yield Problem(name, variant, text, size, layout, seed * len(shapes) + index)


def draw(problem: Problem) -> Checkable:
    """The tensors of a problem.

    Raises:
        ValueError: there is no such operator or variant, or it takes no such dtype; the message lists what there is.
    """
    if problem.operator not in operators():
        raise ValueError(f"operator must be one of {', '.join(operators())}, got {problem.operator!r}")
    operator = operators()[problem.operator]
    if problem.variant not in operator.draws:
        variants = ", ".join(operator.draws)
        raise ValueError(f"variant of {operator.name} must be one of {variants}, got {problem.variant!r}")
    names = [str(dtype).removeprefix("torch.") for dtype in operator.dtypes]
    if problem.dtype not in names:
        raise ValueError(f"dtype of {operator.name} must be one of {', '.join(names)}, got {problem.dtype!r}")
    layout = problem.layout.split("+")
    options = dict(dtype=problem.torch_dtype, states=STATES in layout, seed=problem.seed)
    if PACKED in problem.variant.split("+"):
        options["starts"] = starts(problem.shape[1], problem.seed)
    case = operator.draws[problem.variant](*problem.shape, **options)
    return case.strided() if STRIDED in layout else case


def _random_shapes(seed: int) -> Iterator[tuple[Shape, str]]:
    generator = torch.Generator().manual_seed(seed)
    layouts = (PLAIN, STATES, STRIDED, f"{STATES}+{STRIDED}")
    for index in range(RANDOM_SHAPES):
        batch, length, channels = (int(torch.randint(1, most, (), generator=generator)) for most in (6, 400, 200))
        yield (batch, length, channels), layouts[index % len(layouts)]
