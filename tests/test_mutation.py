"""Mutants: one small change each, which still is Python, and the tests that are to notice it."""

import ast
from pathlib import Path

import pytest
from mutation.__main__ import PARTS, ROOT, mirrors, spread
from mutation.equivalent import EQUIVALENT
from mutation.mutants import mutants

TEXT = '''"""A docstring - with a minus."""


def scan(h: "a - b", x, reverse=True):
    if n < T:
        raise ValueError(f"{n - 1}")
    for t in range(n):
        h = a * h + load(x + (t - 1), mask=d < D, other=0.0)
        h = minimum(h, -h.conj())
    store(h, at.to(tl.int64))
    return inner(h, reverse=reverse)
'''


def test_every_kind_of_change() -> None:
    found = mutants(TEXT)
    assert {mutant.kind for mutant in found} == {
        "wrong sign", "swapped operands", "shifted index", "shifted bound", "other branch", "forgotten conj",
        "narrow offset", "wrong extreme", "dropped mask", "wrong start", "skipped call", "missing reverse",
    }  # fmt: skip
    for mutant in found:
        ast.parse(mutant.text)
        changed = [a != b for a, b in zip(TEXT.splitlines(), mutant.text.splitlines(), strict=True)]
        assert changed.index(True) == mutant.line - 1 and sum(changed) == 1
    lines = {mutant.line for mutant in found}
    assert not lines & {1, 4, 6}  # docstrings, annotations, defaults and errors stay
    (start,) = [mutant for mutant in found if mutant.kind == "wrong start"]
    assert start.name == "range(n) -> range(1, n)"


def test_some_of_every_kind() -> None:
    found = mutants(TEXT)
    kinds = {mutant.kind for mutant in found}
    some = spread(found, len(kinds), 0)
    assert {mutant.kind for mutant in some} == kinds
    assert some == spread(found, len(kinds), 0) and len(spread(found, 1000, 0)) == len(found)


@pytest.mark.parametrize("part", PARTS)
def test_what_computes_has_tests_of_its_name(part: str) -> None:
    assert all(mirrors(str(Path(part, path.name))) for path in (ROOT / part).glob("*.py") if mutants(path.read_text()))


@pytest.mark.parametrize("file", sorted({file for file, _ in EQUIVALENT}))
def test_every_argument_is_about_a_mutant_of_today(file: str) -> None:
    names = {mutant.name for mutant in mutants((ROOT / file).read_text())}
    assert {name for other, name in EQUIVALENT if other == file} <= names
