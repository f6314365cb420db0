"""How time grows with the length of a sequence: every recurrence, at fixed size and at fixed batch, against its peers.

A peer is followed to greater lengths for as long as its runs stay short; where it is left behind, the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from cofm_triton.evidence.benchmark.check import check
from cofm_triton.evidence.benchmark.contract import Case, Operator, Peer, Problem, Unsupported
from cofm_triton.evidence.benchmark.measure import PATIENCE_SECONDS, Turns
from cofm_triton.evidence.benchmark.peers import declines, missing, peers
from cofm_triton.evidence.benchmark.registry import OPERATORS
from cofm_triton.evidence.benchmark.results import OURS, Results, record
from cofm_triton.evidence.benchmark.shapes import ELEMENTS, FIXED_BATCH_STUDY, FIXED_SIZE_STUDY, fixed_batch, fixed_size

OnStep = Callable[[int, int], None]
DTYPE = torch.float32


@dataclass(frozen=True)
class Preset:
    """How much to measure.

    Attributes:
        exponents: lengths are powers of two.
        elements: numbers in x at fixed size.
        seconds: to spend on the rounds of one contestant.
        longest: seconds that one run of a peer may take; longer sequences are then left out.
        compiled: whether peers that compile for every length take part.
    """

    exponents: Sequence[int]
    elements: int
    seconds: float
    longest: float
    compiled: bool = False


PRESETS = {
    "smoke": Preset((4, 6), 2**10, 0.0, 1.0),
    "quick": Preset(range(8, 21, 3), ELEMENTS, 0.15, 0.3),
    "full": Preset(range(8, 21), ELEMENTS, 0.5, 5.0, compiled=True),
}


def scaling_operators() -> tuple[str, ...]:
    """Names of the operators that have a length to grow."""
    return tuple(name for name, operator in OPERATORS.items() if operator.scales)


def measure_scaling(preset: Preset, chosen: Sequence[str], device: torch.device, on_step: OnStep) -> Results:
    """Measure some operators.

    Args:
        preset: how much.
        chosen: names from `scaling_operators`.
        device: of the tensors.
        on_step: is called with (done, total) numbers of cases.
    """
    results = Results()
    cases = [case for name in chosen for case in _cases(name, preset)]
    limits: dict[tuple[str, str, str, str], list[float]] = {}
    for count, case in enumerate(cases):
        operator = OPERATORS[case.operator]
        problem = operator.make(case, device)
        for pass_name in operator.passes:
            for peer in [None, *_running(case, preset, device, results)]:
                times = limits.setdefault((case.operator, case.study, pass_name, _name(peer)), [])
                if peer is None or _affordable(times, preset, peer, case, results):
                    taken = _measure(operator, problem, pass_name, peer, preset, results)
                    times.extend([] if taken is None else [taken])
        on_step(count + 1, len(cases))
    return results


def _cases(name: str, preset: Preset) -> Iterator[Case]:
    for exponent in preset.exponents:
        yield Case(name, FIXED_SIZE_STUDY, fixed_size(2**exponent, preset.elements), DTYPE)
    for exponent in preset.exponents:
        yield Case(name, FIXED_BATCH_STUDY, fixed_batch(2**exponent), DTYPE)


def _running(case: Case, preset: Preset, device: torch.device, results: Results) -> Iterator[Peer]:
    for peer in peers():
        if case.operator not in peer.prepare:
            continue
        reason = missing(peer) or declines(peer, case, device)
        if peer.slow_to_compile and not preset.compiled:
            reason = reason or "compiles for every length: in the full preset alone"
        if reason is None:
            yield peer
        else:
            results.leave_out(peer.name, case.operator, reason)


def _affordable(times: list[float], preset: Preset, peer: Peer, case: Case, results: Results) -> bool:
    """Whether a peer's next run, if it grows as the last ones did, stays short."""
    if not times:
        return True
    growth = max(1.0, times[-1] / times[-2]) if len(times) > 1 else 1.0
    if times[-1] * growth <= preset.longest:
        return True
    times.append(math.inf)  # and stays out
    reason = f"{case.study}, T >= {case.shape[1]:,}: more than {preset.longest:g} s a run"
    if not any(text.startswith(case.study) for text in results.left_out.get((peer.name, case.operator), [])):
        results.leave_out(peer.name, case.operator, reason)
    return False


def _measure(
    operator: Operator, problem: Problem, pass_name: str, peer: Peer | None, preset: Preset, results: Results
) -> float | None:
    """Measure one contestant, keep its record, and return seconds of a run; None if it declines."""
    case, name = problem.case, _name(peer)
    target = torch.empty_like(problem.yardstick)
    try:
        runner = operator.ours(problem) if peer is None else peer.prepare[case.operator](problem)
        if preset.seconds == 0:
            check(problem, runner, pass_name, peer)
        turns = Turns(lambda: target.copy_(problem.yardstick), runner.passes()[pass_name], problem.x.device)
        turns.take(preset.seconds, min_rounds=3, patience=PATIENCE_SECONDS if peer is None else preset.longest)
    except Unsupported as reason:
        results.leave_out(name, case.operator, str(reason))
        return None
    moved = operator.bytes_moved(case, pass_name) if peer is None else None
    entry = record(case, pass_name, name, turns, moved, 2 * problem.yardstick.nbytes)
    results.records.append(entry)
    return entry.seconds.median


def _name(peer: Peer | None) -> str:
    return OURS if peer is None else peer.name
