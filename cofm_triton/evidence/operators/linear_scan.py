"""`cofm_triton.linear_scan`: one decay per channel or gates, real and complex, pairs, reverse, packed, with resets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from cofm_triton.evidence.benchmark.shapes import FIXED_BATCH, FIXED_BATCH_STUDY, FIXED_SIZE, FIXED_SIZE_STUDY, TARGETS
from cofm_triton.evidence.case import Case
from cofm_triton.evidence.compilation.launches import SPLIT, WHOLE, Options, meta, sequence
from cofm_triton.evidence.draws import decays, normal, randn, reset_options, spread_decays
from cofm_triton.evidence.operator import Benchmark, Compilation, Operator, Validation
from cofm_triton.evidence.problem import Problem
from cofm_triton.evidence.tolerance import linear_scan_bounds
from cofm_triton.functional import linear_scan
from cofm_triton.ops.dtypes import DTYPES, complex_state_dtype, state_dtype
from cofm_triton.ops.linear_scan import traffic

# 512 channels fill programs with aligned rows; 500 leave rows unaligned and the last program partly empty.
EVEN, RAGGED, FEW = 512, 500, 3
# Bytes of a row that gives 132 multiprocessors programs with wide rows; steps of which those of few channels are split.
WIDE_BYTES, LONG = 132 * 128, 2**16


def linear_problem(
    batch: int, length: int, channels: int, *, dtype: torch.dtype = torch.float32, gated: bool = False,
    states: bool = True, reverse: bool = False, starts: list[int] | None = None, pairs: bool = False,
    shared: bool = False, reset_to: str | None = None, seed: int = 0,
) -> Problem:  # fmt: skip
    """A linear scan of random numbers; decay (D,) in the state's dtype, gates in x's, all channels of a step the same
    if `shared`. With `pairs`, complex decays and one real channel more if their number is odd. Without `reset_to`, no
    resets.
    """
    state, seed = state_dtype(dtype), 10 * seed
    sequences, decay_dtype = batch if starts is None else len(starts), dtype if gated else state
    if pairs:
        channels, decay_dtype = channels + channels % 2, complex_state_dtype(dtype)
    width = 1 if shared else channels // 2 if pairs else channels
    tensors = {
        "x": normal(batch, length, channels, dtype=dtype, seed=seed),
        "decay": decays(*((batch, length, width) if gated else (width,)), dtype=decay_dtype, seed=seed + 1),
    }
    if states:
        tensors["h0"] = normal(sequences, channels, dtype=state, seed=seed + 2)
    pulls = {
        "grad_h": normal(batch, length, channels, dtype=dtype, seed=seed + 3),
        "grad_last": normal(sequences, channels, dtype=state if states else dtype, seed=seed + 4),
    }
    options: dict[str, Any] = dict(reverse=reverse, seq_starts=None if starts is None else torch.tensor(starts))
    options |= reset_options(batch, length, reset_to, seed + 5)
    return Problem(OPERATOR, tensors, pulls, options)


def in_pairs(*shape: int, dtype: torch.dtype = torch.float32, **options: Any) -> Problem:
    """As `linear_problem`, with a complex decay of pairs of channels; complex tensors are that already."""
    return linear_problem(*shape, dtype=dtype, pairs=not dtype.is_complex, **options)


def timed(case: Case, device: torch.device) -> Problem:
    """x, a decay (D,) for memories of every length, and the gradient of h."""
    tensors = {"x": randn(case, device, 0), "decay": spread_decays(case, device)}
    return Problem(OPERATOR, tensors, {"grad_h": randn(case, device, 1)})


def launch(
    dtype: torch.dtype = torch.float32, gated: bool = False, reverse: bool = False, packed: bool = False,
    states: bool = True, length: int = 4096, width: int = EVEN, num_sms: int = WHOLE, sliced: bool = False,
    transposed: bool = False, shared: bool = False, pairs: bool = False, resets: bool = False,
) -> None:  # fmt: skip
    """Both passes; `pairs` of real channels have complex decays, `resets` are to h0."""
    from triton.runtime import driver

    from cofm_triton.kernels import linear_scan

    state = state_dtype(dtype)
    x = sequence(length, width, dtype, sliced, transposed)
    decay = x if gated else meta(width, dtype=state)
    if pairs:
        channels, complex_state = width // 2, complex_state_dtype(dtype)
        decay = meta(*((1, length, channels) if gated else (channels,)), dtype=complex_state)
    if shared:
        decay = meta(1, length, 1, dtype=decay.dtype)
    seq_starts = meta(4, dtype=torch.int64) if packed else None
    h0 = meta(4 if packed else 1, width, dtype=state) if states else None
    warp = driver.active.get_current_target().warp_size
    options: dict[str, Any] = dict(reverse=reverse, state_dtype=state, num_sms=num_sms, lanes=warp)
    options["resets"] = meta(1, length, dtype=torch.bool) if resets else None
    linear_scan.forward(x, decay, h0, seq_starts, **options)
    h = meta(*x.shape, dtype=dtype)
    linear_scan.backward(x, h0, decay, h, h0, seq_starts, **options)


def elements(constants: Options) -> int:
    """Of one turn of the loop along time, all threads of a program together."""
    rows: int = constants["SEGMENTS"] * constants["ROWS"] * constants["BLOCK_D"]
    return rows


def bytes_per_element(kernel: str, constants: Options, options: Options) -> float | None:
    """Per real number; None for summaries, which are a part of a pass."""
    if "summary" in kernel:
        return None
    dtype, backward = options.get("dtype", torch.float32), "backward" in kernel
    itemsize = dtype.itemsize // (2 if dtype.is_complex else 1)
    moved = traffic(1, 1, 1, itemsize, gated=constants["GATED"], backward=backward)
    if constants["GATED"] and options.get("pairs"):  # gates, and what is their gradient, are in the state's dtype
        moved += (state_dtype(dtype).itemsize - itemsize) * (2 if backward else 1)
    return moved


def _others() -> Iterator[Options]:
    for gated in (False, True):
        yield dict(dtype=torch.float64, gated=gated)
        for dtype in (torch.float32, torch.bfloat16):
            yield dict(dtype=dtype, gated=gated, width=RAGGED, packed=True)
            yield dict(dtype=dtype, gated=gated, width=64, length=LONG, num_sms=SPLIT)
        yield dict(gated=gated, width=RAGGED, reverse=True, states=False)
        yield dict(gated=gated, width=RAGGED)
        yield dict(gated=gated, sliced=True)
        yield dict(dtype=torch.bfloat16, gated=gated, sliced=True, num_sms=SPLIT)
        yield dict(gated=gated, transposed=True)
        yield dict(gated=gated, reverse=True, transposed=True, num_sms=SPLIT)
        yield dict(dtype=torch.complex64, gated=gated, num_sms=SPLIT)
        yield dict(dtype=torch.float64, gated=gated, width=64, num_sms=SPLIT)
        yield dict(gated=gated, width=WIDE_BYTES // 4, num_sms=SPLIT)
        yield dict(dtype=torch.complex64, gated=gated, width=RAGGED)
    yield dict(gated=True, width=RAGGED, packed=True, num_sms=SPLIT)
    yield dict(gated=True, width=FEW, length=LONG, num_sms=SPLIT)
    yield dict(dtype=torch.complex64, width=FEW, length=LONG, num_sms=SPLIT)
    yield dict(dtype=torch.complex128, width=FEW, length=LONG, num_sms=SPLIT)
    for dtype, num_sms in ((torch.float32, WHOLE), (torch.bfloat16, WHOLE), (torch.float32, SPLIT)):
        yield dict(dtype=dtype, gated=True, shared=True, num_sms=num_sms)
    yield dict(gated=True, shared=True, width=RAGGED)
    for dtype in (torch.float32, torch.bfloat16):
        yield dict(dtype=dtype, pairs=True, num_sms=SPLIT)
        yield dict(dtype=dtype, pairs=True, width=64, length=LONG, num_sms=SPLIT)
        yield dict(dtype=dtype, pairs=True, width=RAGGED, packed=True)
        yield dict(dtype=dtype, pairs=True, transposed=True)
        yield dict(dtype=dtype, pairs=True, gated=True)
        yield dict(dtype=dtype, pairs=True, gated=True, width=RAGGED, num_sms=SPLIT)
        yield dict(dtype=dtype, pairs=True, gated=True, shared=True)
    yield dict(dtype=torch.float16, pairs=True, reverse=True)
    yield dict(dtype=torch.float64, pairs=True)
    yield dict(dtype=torch.complex64, gated=True, shared=True)
    yield dict(dtype=torch.complex64, gated=True, shared=True, width=RAGGED, num_sms=SPLIT)
    yield dict(dtype=torch.complex64, gated=True)
    yield dict(dtype=torch.complex64, sliced=True)
    yield dict(width=FEW)
    yield dict(resets=True)
    yield dict(num_sms=SPLIT, resets=True)
    yield dict(pairs=True, num_sms=SPLIT, resets=True)


OPERATOR = Operator(
    name="linear_scan",
    function=linear_scan,
    bounds=linear_scan_bounds,
    sequences=("x", "decay", "grad_h"),
    validation=Validation(
        draws={
            "time-invariant": linear_problem,
            "gated": partial(linear_problem, gated=True),
            "reverse": partial(linear_problem, reverse=True),
            "gated+reverse": partial(linear_problem, gated=True, reverse=True),
            "packed": linear_problem,
            "gated+packed": partial(linear_problem, gated=True),
            "packed+reverse": partial(linear_problem, reverse=True),
            "shared": partial(linear_problem, gated=True, shared=True),
            "pairs": in_pairs,
            "pairs+reverse+packed": partial(in_pairs, reverse=True),
            "pairs+gated": partial(in_pairs, gated=True),
            "resets": partial(linear_problem, reset_to="h0"),
            "gated+reverse+resets": partial(linear_problem, gated=True, reverse=True, reset_to="zero"),
            "pairs+packed+resets": partial(in_pairs, reset_to="h0"),
        },
        dtypes=DTYPES,
        splits=True,
    ),
    benchmark=Benchmark(
        studies={
            FIXED_SIZE_STUDY: (FIXED_SIZE, [torch.float32]),
            FIXED_BATCH_STUDY: (FIXED_BATCH, [torch.float32]),
            "targets": (TARGETS, [torch.float32, torch.bfloat16]),
            "complex": ([(8, 4096, 128)], [torch.complex64]),
        },
        draw=timed,
        traffic=lambda case, backward: traffic(*case.shape, case.dtype.itemsize, gated=False, backward=backward),
        scales=True,
    ),
    compilation=Compilation(
        launch=launch,
        usual=[
            dict(dtype=torch.float32),
            dict(dtype=torch.bfloat16),
            dict(dtype=torch.float32, gated=True),
            dict(dtype=torch.bfloat16, gated=True),
            dict(dtype=torch.float32, num_sms=SPLIT),
            dict(dtype=torch.float32, gated=True, num_sms=SPLIT),
            dict(dtype=torch.complex64),
            dict(dtype=torch.float32, pairs=True),
            dict(dtype=torch.bfloat16, pairs=True),
        ],
        others=list(_others()),
        bytes_per_element=bytes_per_element,
        elements=elements,
    ),
)
