"""Which cases of a test run: every pair of the values of its parameters, and how to take fewer."""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations
from typing import TypeVar

T = TypeVar("T")


def covering(cases: Sequence[Mapping[str, Hashable]]) -> list[int]:
    """Positions of some cases in which every two values occur together that do so in any case.

    Faults that need three values at once are rare, and a product of all values repeats every pair many times. With
    one parameter or two, these are all cases.

    Args:
        cases: for every parameter, which of its values.

    Example:
        >>> covering([dict(a=a, b=b, c=c) for a in (0, 1) for b in (0, 1) for c in (0, 1)])
        [0, 3, 5, 6]
    """
    pairs = [frozenset(combinations(case.items(), 2)) for case in cases]
    if any(len(some) < 3 for some in pairs):
        return list(range(len(cases)))
    open_pairs = set().union(*pairs)
    chosen = []
    while open_pairs:
        best = max(range(len(cases)), key=lambda position: len(pairs[position] & open_pairs))
        chosen.append(best)
        open_pairs -= pairs[best]
    return sorted(chosen)


def evenly_spaced(cases: Sequence[T], most: int) -> list[T]:
    """At most so many cases, the first among them.

    Example:
        >>> evenly_spaced("abcdefg", 3)
        ['a', 'c', 'e']
    """
    count = min(most, len(cases))
    return [cases[position * len(cases) // count] for position in range(count)]
