"""The tables of a validation and its file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cofm_triton.evidence.validation.check import Outcome
from cofm_triton.evidence.validation.problem import Problem
from cofm_triton.support.files import write_text

LEGEND = (
    "Largest error against reference/ in float64, forward and backward pass, over the largest that rounding allows",
    "(evidence/tolerance.py): up to 1 passes, ! misses. Sweeps have a forward pass, their gradients come with it.",
)
FILE = "validate.json"


def lines(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """A table per operator and place, the worst case of each, and every miss."""
    yield from LEGEND
    blocks: dict[tuple[str, str], list[tuple[Problem, Outcome]]] = {}
    for outcome in outcomes:
        problem = Problem.parse(outcome.problem)
        blocks.setdefault((problem.operator, outcome.place), []).append((problem, outcome))
    for (operator, place), block in blocks.items():
        dtypes = list(dict.fromkeys(problem.dtype for problem, _ in block))
        variants = list(dict.fromkeys(problem.variant for problem, _ in block))
        yield ""
        rows = [[f"{operator}, {place}", *dtypes]]
        rows += [[variant, *(_cell(block, variant, dtype) for dtype in dtypes)] for variant in variants]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        worst = max((outcome for _, outcome in block), key=Outcome.largest)
        yield f"  worst: {worst.largest():.2f}  {worst.replay}"
    missed = [outcome for outcome in outcomes if outcome.missed]
    yield ""
    yield f"{len(outcomes)} calls, {len(missed)} missed"
    for outcome in sorted(missed, key=Outcome.largest, reverse=True)[:MOST_MISSES]:
        yield from details(outcome)
    if len(missed) > MOST_MISSES:
        yield f"  and {len(missed) - MOST_MISSES} more, in the file that --out writes"


MOST_MISSES = 10


def details(outcome: Outcome) -> Iterator[str]:
    """All of one outcome: every result's ratio, the worst element, and how to see it again."""
    yield f"  {outcome.replay}  {'MISSED' if outcome.missed else 'passed'}"
    if outcome.failure is not None:
        yield f"    raised {outcome.failure}"
    if outcome.ratios:
        yield "    " + ", ".join(f"{name} {ratio:.2f}" for name, ratio in outcome.ratios.items())
    if outcome.worst is not None:
        w = outcome.worst
        yield f"    {w.result}{w.index} is {w.actual}, exactly {w.exact}, allowed to be off by {w.allowed:.2e}"


def write(folder: Path, outcomes: Sequence[Outcome], about: dict[str, Any]) -> Path:
    """Write everything as JSON, whole or not at all, and return the file's path.

    Args:
        folder: is made if missing.
        outcomes: all of them.
        about: machine, versions and options.
    """
    path = folder / FILE
    content = {**about, "outcomes": [{**outcome.as_dict(), "missed": outcome.missed} for outcome in outcomes]}
    write_text(path, json.dumps(content, indent=1) + "\n")
    return path


def _cell(block: Sequence[tuple[Problem, Outcome]], variant: str, dtype: str) -> str:
    found = [outcome for problem, outcome in block if (problem.variant, problem.dtype) == (variant, dtype)]
    if not found:
        return "-"
    backward = any(name.startswith("grad_") for outcome in found for name in outcome.ratios)
    passes = [max(outcome.largest(backward=which) for outcome in found) for which in (False, True)[: 1 + backward]]
    return " ".join(f"{ratio:.2f}" for ratio in passes) + (" !" if any(o.missed for o in found) else "")
