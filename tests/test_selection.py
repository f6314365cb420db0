from itertools import combinations, product

import pytest
from selection import covering, evenly_spaced


@pytest.mark.parametrize("sizes", [(3,), (2, 5), (2, 3, 4), (4, 2, 2, 3), (2,) * 6])
def test_every_pair_that_occurs_is_kept(sizes: tuple[int, ...]) -> None:
    names = "abcdef"[: len(sizes)]
    cases = [dict(zip(names, values, strict=True)) for values in product(*map(range, sizes)) if sum(values) != 4]
    kept = covering(cases)
    assert kept == sorted(set(kept))
    wanted, found = (
        {pair for case in some for pair in combinations(case.items(), 2)} for some in (cases, [cases[k] for k in kept])
    )
    assert found == wanted
    if len(sizes) < 3:
        assert len(kept) == len(cases)
    else:
        assert len(kept) < len(cases)


def test_spacing() -> None:
    assert evenly_spaced(range(10), 20) == list(range(10))
    assert evenly_spaced(range(10), 4) == [0, 2, 5, 7]
    assert evenly_spaced([], 4) == []


@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize(("second", "third"), [(1, "x"), (1, "y"), (2, "x")])
@pytest.mark.parametrize("fourth", [0.0, 0.5])
def test_rows_of_one_parametrize_stay_together(
    first: str, second: int, third: str, fourth: float, request: pytest.FixtureRequest
) -> None:
    """Six of twelve cases: a row counts as one value."""
    if not (request.config.getoption("every_case") or request.config.getoption("quick")):
        function = request.node.nodeid.partition("[")[0]
        assert sum(item.nodeid.partition("[")[0] == function for item in request.session.items) in (1, 6)
