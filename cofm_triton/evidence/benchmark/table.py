"""The table of a session: ours next to the copy, and every peer next to ours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cofm_triton.evidence.benchmark.contract import FORWARD
from cofm_triton.evidence.benchmark.results import OURS, Record, Results

LEGEND = (
    "ms: median of a run. x copy: time over that of y.copy_(x), median (smallest-largest) of paired rounds.",
    "% bw: bandwidth by the traffic model over the copy's. Peers: their time over ours, each against its own copies,",
    "or by the clock if one takes more than ten of them; below 1 they win (!). * does other work. n=1: a single run.",
)
# A longer run varies little with the speed of memory, and what it leaves in the caches decides how long a copy takes.
MANY_COPIES = 10.0
SHORT = {FORWARD: "fwd"}


def lines(results: Results, other_work: Sequence[str] = ()) -> Iterator[str]:
    """The lines of the table, of what was lost, and of what is missing.

    Args:
        results: a session's.
        other_work: peers whose result is not ours.
    """
    rows = results.by_row()
    blocks: dict[tuple[str, str, str], list[dict[str, Record]]] = {}
    for (operator, study, dtype, _size, _pass), row in rows.items():
        blocks.setdefault((operator, study, dtype), []).append(row)
    for title, block in blocks.items():
        names = [name for name in dict.fromkeys(name for row in block for name in row) if name != OURS]
        yield ""
        yield ", ".join(title)
        heads = [f"{name}*" if name in other_work else name for name in names]
        yield from _aligned([["B x T x D", "", "ms", "x copy", "% bw", *heads], *(_cells(row, names) for row in block)])
    yield ""
    yield from LEGEND
    yield from _losses(results, other_work)
    if results.left_out:
        yield "Left out:"
        for (contestant, operator), reasons in results.left_out.items():
            yield f"  {contestant}, {operator}: {'; '.join(reasons)}"


def advantage(ours: Record, peer: Record) -> float:
    """How many times longer the peer takes: each in copies of its own rounds, or, of many copies, by the clock."""
    if max(ours.ratio.median, peer.ratio.median) > MANY_COPIES:
        return peer.seconds.median / ours.seconds.median
    return peer.ratio.median / ours.ratio.median


def _cells(row: dict[str, Record], names: Sequence[str]) -> list[str]:
    any_record = next(iter(row.values()))
    ours = row.get(OURS)
    start = [any_record.size, SHORT.get(any_record.pass_name, "fwd+bwd")]
    if ours is None:
        return [*start, "-", "-", "-", *("-" for _ in names)]
    bandwidth = "-" if ours.bandwidth is None else f"{ours.bandwidth:.0%}"
    ratio = f"{_short(ours.ratio.median)} ({_short(ours.ratio.min)}-{_short(ours.ratio.max)})"
    return [*start, f"{ours.seconds.median * 1e3:.3g}", ratio, bandwidth, *(_peer(ours, row.get(n)) for n in names)]


def _peer(ours: Record, peer: Record | None) -> str:
    if peer is None:
        return "-"
    times = advantage(ours, peer)
    return f"{_short(times)}{' !' if times < 1 else ''}{' n=1' if peer.rounds == 1 else ''}"


def _losses(results: Results, other_work: Sequence[str]) -> Iterator[str]:
    """Every case in which a peer is faster."""
    compared = [
        (key, name, advantage(row[OURS], peer))
        for key, row in results.by_row().items()
        if OURS in row
        for name, peer in row.items()
        if name not in (OURS, *other_work)
    ]
    lost = [
        f"  {', '.join(key)}: {name} takes {_short(times)} of our time" for key, name, times in compared if times < 1
    ]
    yield f"Lost: {len(lost)} of {len(compared)} comparisons with peers that do the same work"
    yield from lost


def _short(number: float) -> str:
    """Two or three digits, without an exponent."""
    return f"{number:.2f}" if number < 10 else f"{number:.0f}"


def _aligned(table: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = zip(cells, widths, strict=True)
        columns = [cell.ljust(width) if i < 2 else cell.rjust(width) for i, (cell, width) in enumerate(padded)]
        yield "  " + "  ".join(columns)
