"""What the authors of arXiv 2305.19190 have published, beside what a run finds: quoted, never measured here.

Source: their repository radarFudan/Curse-of-memory at commit 136766e. Its README says in a table which kinds of models
approximate which targets stably. Of all sweeps, numbers are there for one: target exp, hardtanh, diagonal RNN, widths 8
to 64 (`logs/LF_hardtanh_diagonalrnn_exp_PERTURB/runs/20231108`), rounded here to four digits; the others are figures.
Their "diagonalrnn" is trained with rates relu(w), and perturbed in the rates; theirs are Euler steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cofm_triton.cli.table import aligned

STABLE = {
    "Diagonal RNN": ("stable", "unstable"),
    "Vanilla RNN": ("stable", "unstable"),
    "State-space model": ("stable", "unstable"),
    "Linear Recurrent Unit": ("stable", "unstable"),
    "Stable Reparameterisation": ("stable", "stable"),
}
"""The table of the README: rows, and what it says of the targets exp and pol."""

_UNSTABLE_ROWS = {
    "diagonal": "Diagonal RNN",
    "ssm": "State-space model",
    "orthogonal": "Vanilla RNN",
    "dense": "Vanilla RNN",
}

ERRORS = {
    8: (
        *(0.02212, 0.03503, 0.04196, 0.05352, 0.07382, 0.1116, 0.1873, 0.3524, 0.7524, 1.859, 5.464),
        *(18.12, 58.01, 156.5, 364.1, 799.4, 1722.0, 3555.0, 7093.0, 12760.0, 212900.0, 259000.0),
    ),
    16: (
        *(0.03403, 0.04254, 0.04674, 0.05349, 0.06488, 0.08554, 0.1268, 0.2216, 0.4761, 1.283, 4.374),
        *(18.37, 61.71, 168.6, 396.1, 847.4, 1738.0, 3427.0, 6633.0, 12600.0, 22380.0, 54140.0),
    ),
    32: (
        *(0.0148, 0.01548, 0.01596, 0.01751, 0.02089, 0.02807, 0.06149, 0.1667, 0.4648, 1.332, 3.943),
        *(11.8, 30.17, 61.35, 172.1, 519.7, 1297.0, 3037.0, 7323.0, 16690.0, 100500.0, 372400.0),
    ),
    64: (
        *(0.003362, 0.003766, 0.003986, 0.004359, 0.005037, 0.006366, 0.009258, 0.01643, 0.03742, 0.113, 0.4505),
        *(2.025, 7.487, 23.28, 145.9, 486.5, 1244.0, 2963.0, 8686.0, 25560.0, 132300.0, 148600.0),
    ),
}
"""Largest errors so far, over radii and 30 directions, by width: at the 22 radii of `paper_radii`."""

_SHOWN = (0, 1, 5, 9, 13, 17, 21)  # of the radii: each four times the one before


class Found(NamedTuple):
    """What a run says of one kind of model, at its largest width."""

    target: str
    nonlinearity: str
    parameterization: str
    verdict: str


def row_of(recurrence: str, parameterization: str) -> str:
    """The row of their table that a kind of model belongs to."""
    if parameterization in ("direct", "relu"):
        return _UNSTABLE_ROWS[recurrence]
    return "Linear Recurrent Unit" if parameterization == "lru" else "Stable Reparameterisation"


def comparison(
    recurrence: str, found: Sequence[Found], radii: Sequence[float], errors: Mapping[int, Sequence[float]]
) -> str:
    """Ours beside theirs, in plain text.

    Args:
        recurrence: of all models.
        found: what the run says of each kind of model.
        radii: of the errors.
        errors: largest so far at the radii, by width, of the models whose numbers are published; may be empty.
    """
    columns = {"exp": 0, "pol": 1}
    rows = [("target", "activation", "rate", "row of their table", "theirs", "ours")]
    rows += [
        (f.target, f.nonlinearity, f.parameterization, row, STABLE[row][columns[f.target]], f.verdict)
        for f in found
        if f.target in columns
        for row in [row_of(recurrence, f.parameterization)]
    ]
    text = "Stable or not: the README of radarFudan/Curse-of-memory at 136766e, and this run.\n\n" + aligned(rows)
    text += (
        "\nTheirs says unstable of the LRU cell, whose f(w) = 1 - exp(-exp(w)) has a finite stability modulus:\n"
        "by the theory of the sequel (arXiv 2311.14495) it is a stable parameterisation.\n"
    )
    shared = [width for width in ERRORS if width in errors]
    if not shared:
        return text
    table = [
        ("beta", *(f"m={width} {whose}" for width in shared for whose in ("theirs", "ours"))),
        *_numbers(radii, errors, shared),
    ]
    return (
        text
        + (
            "\nLargest error of target exp with hardtanh and a diagonal recurrence of direct rates, at all radii up to "
            "beta:\ntheirs as published, ours of other trained models, so that orders of size compare, not digits.\n\n"
        )
        + aligned(table)
    )


def _numbers(
    radii: Sequence[float], errors: Mapping[int, Sequence[float]], widths: Sequence[int]
) -> Iterator[tuple[str, ...]]:
    for i in _SHOWN:
        yield (f"{radii[i]:.3g}", *(f"{of[width][i]:.3g}" for width in widths for of in (ERRORS, errors)))
