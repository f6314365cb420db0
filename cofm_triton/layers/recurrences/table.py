"""The recurrences by name: one row each."""

from __future__ import annotations

from cofm_triton.layers.recurrences.contract import Recurrence
from cofm_triton.layers.recurrences.dense import Dense
from cofm_triton.layers.recurrences.elementwise import Elementwise
from cofm_triton.layers.recurrences.orthogonal import Orthogonal
from cofm_triton.support.scalars import check_choice

_TABLE: dict[str, Recurrence] = {
    "diagonal": Elementwise(acts_on_output=False),
    "orthogonal": Orthogonal(),
    "dense": Dense(),
    "ssm": Elementwise(acts_on_output=True),
}

RECURRENCES = tuple(_TABLE)


def recurrence(name: str) -> Recurrence:
    """Look up a recurrence, one of `RECURRENCES`.

    Raises:
        ValueError: unknown name.
    """
    check_choice("recurrence", name, RECURRENCES)
    return _TABLE[name]
