"""The nonlinear recurrence parallel in time, to the bit: chunks that warm up, rounds of repair, a sequential fallback.

A recurrence that contracts forgets where it started. Under the same inputs two trajectories come closer by a factor of
`exp(-forgets)` a step, `forgets = 1 - |1 - dt * rate|`, until rounding makes them equal, bit for bit.

1. Chunks, side by side. A program first runs the `warm_up` rows before its chunk, from zero, without storing them. The
   state they lead to is its guess, and there it starts. Chunk 0 starts from h0.
2. Rounds. A guess should be the state that the chunk before ended in. Where it is not, to the bit, the chunk runs again
   from that end, all such chunks side by side. Each round makes every warm-up longer by a chunk.
3. Fallback. Where an end has changed in the last round, one program per block of channels goes through the chunks in
   order, and runs again those whose guess is still wrong.

So every result is that of the sequential kernel, bit for bit: all of them run the same walk (`rnn_scan_walk.py`). A
wrong guess costs time only.

Warm-ups and chunks follow from the slowest rate of a block, on the device; the host waits for nothing. The rules stand
in `launch.py`. Saturated steps do not contract: the rounds are for them. Slow rates leave all to chunk 0; NaN, and
inputs that saturate nearly always, leave it to the fallback. Both walk as the sequential kernel does.

Indices and dtypes as in `rnn_scan.py`; C chunks of every sequence. A chunk that would begin after its sequence's end
is left out. Traffic in elements per element: 2, and x once more for all rows of warm-ups.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import in_pairs
from cofm_triton.kernels.launch import (
    CHUNK,
    FADES,
    LONG_CHUNK,
    MAX_REACH,
    MAX_WARM_UP,
    REACH,
    ROUNDS,
    WARM_UP,
    WORTH,
    ForwardChains,
)
from cofm_triton.kernels.launches import launch
from cofm_triton.kernels.rnn_scan_walk import bytes_at, coefficients, first_state, start_after_cuts, walk
from cofm_triton.kernels.rows import across_lanes, chunk_rows, load_row, store_row

# Right of tensors: left of one, Triton 3.8's interpreter makes a constexpr of the product.
_FADES_32, _FADES_64 = tl.constexpr(FADES[4]), tl.constexpr(FADES[8])
_WARM_UP, _REACH, _WORTH = tl.constexpr(WARM_UP), tl.constexpr(REACH), tl.constexpr(WORTH)
_MAX_WARM_UP, _MAX_REACH = tl.constexpr(MAX_WARM_UP), tl.constexpr(MAX_REACH)
_CHUNK, _LONG_CHUNK = tl.constexpr(CHUNK), tl.constexpr(LONG_CHUNK)
_ROUNDS = tl.constexpr(ROUNDS)


@triton.jit
def differ(a, b):
    """1 where rows of states differ in a bit, else 0."""
    if a.dtype == tl.float64:
        differs = a.to(tl.int64, bitcast=True) != b.to(tl.int64, bitcast=True)
    else:
        differs = a.to(tl.int32, bitcast=True) != b.to(tl.int32, bitcast=True)
    return differs.to(tl.int32)


@triton.jit
def chunk_plan(
    pull, turn, dt, n, num_chunks, long_fade, mask, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr
):  # fmt: skip
    """`(warm_up, length)`: rows of a warm-up and of a chunk, multiples of ROWS."""
    modulus = tl.abs(1.0 + dt * pull).to(tl.float32)
    if PAIRED:
        angle = (dt * turn).to(tl.float32)
        modulus = tl.sqrt(modulus * modulus + angle * angle)
    forgets = tl.where(modulus < 1.0, 1.0 - modulus, 0.0)  # NaN never forgets
    slowest = tl.min(tl.where(mask, forgets, 1.0), axis=0)
    fade = (_FADES_64 if STATE == tl.float64 else _FADES_32) / tl.maximum(slowest, 1e-9)
    rows = n.to(tl.float32)
    warm_up = tl.minimum(fade * _WARM_UP, rows * _MAX_WARM_UP)
    chunk = tl.where(fade < long_fade, _LONG_CHUNK, _CHUNK) * fade
    chunk = tl.maximum(chunk, tl.minimum((fade * _REACH - warm_up) / _ROUNDS, rows * _MAX_REACH))
    chunk = tl.where(rows < fade * _WORTH, rows, tl.minimum(chunk, rows))
    length = tl.maximum(tl.maximum(chunk.to(tl.int32), tl.cdiv(n, num_chunks)), 1)
    return tl.cdiv(warm_up.to(tl.int32), ROWS) * ROWS, tl.cdiv(length, ROWS) * ROWS


@triton.jit
def rnn_scan_chunk_kernel(
    x_ptr,  # (B, T, D)
    w_ptr,  # (D,), raw rates, STATE
    turn_ptr,  # (D,), STATE, read if PAIRED
    h0_ptr,  # (S, D), contiguous; None: 0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    resets_ptr,  # (B, T), contiguous, a byte per step: not 0 where a sequence is cut; None: nowhere
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), final states
    guess_ptr,  # out: (S, C, D), the states that chunks started from
    ends_ptr,  # out: (2, S, C, D), the states that they ended in, of chunk 0 twice
    plan_ptr,  # out: (1 + ROUNDS, S, D), blocks of ROWS in a chunk; 0, no end has changed in a round
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, num_chunks, dt: tl.float64, long_fade: tl.float32,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, PAIRED: tl.constexpr,
    TO_H0: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """All rows of h and the final states, as right as the guesses are."""
    if PAIRED:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks % num_sequences
    chunk = pid // (num_blocks * num_sequences)
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=PAIRED)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
    sequence_row = sequence.to(tl.int64) * D + c
    chunk_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + c

    # Load: coefficients; the rate as in `rnn_scan_forward_kernel`
    dt_state = tl.full((), dt, STATE)
    pull, turn, _rate_row = coefficients(
        w_ptr, turn_ptr, batch, entry, 0, 0, 0, c, mask, dt,
        PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT, GATED=False, PAIRED=PAIRED, STATE=STATE, MASKED=MASKED,
    )  # fmt: skip
    warm_up, length = chunk_plan(
        pull, turn, dt_state, n, num_chunks, long_fade, mask, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS
    )
    begin = tl.minimum(chunk.to(tl.int64) * length, n).to(tl.int32)
    if begin < n or chunk == 0:
        warm_up = tl.minimum(warm_up, begin)
        rows = warm_up + tl.minimum(length, n - begin)
        top = entry + begin - warm_up
        h0 = first_state(h0_ptr, sequence_row, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
        reset_row = None if resets_ptr is None else bytes_at(resets_ptr, batch * T + top)
        start = start_after_cuts(h0, TO_H0=TO_H0)
        h, guess = walk(
            x_ptr + batch * stride_xb + top * stride_xt + c * stride_xd, None, reset_row,
            h_ptr + (batch * T + top) * D + c, tl.where(begin == warm_up, h0, 0.0), start,
            pull, turn, dt_state, rows, warm_up, stride_xt, 0, d, D, mask, NONLINEARITY=NONLINEARITY, GATED=False,
            PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, WARMS_UP=True, MASKED=MASKED,
        )  # fmt: skip

        # Store
        store_row(guess_ptr + chunk_row, guess, mask, MASKED=MASKED)
        store_row(ends_ptr + chunk_row, h, mask, MASKED=MASKED)
        if begin - warm_up + rows == n:
            store_row(last_ptr + sequence_row, h, mask, MASKED=MASKED)
        if chunk == 0:
            sequences = D * num_sequences
            store_row(ends_ptr + num_chunks * sequences + chunk_row, h, mask, MASKED=MASKED)
            nothing = tl.zeros((BLOCK_D,), STATE)
            store_row(plan_ptr + sequence_row, nothing + length // ROWS, mask, MASKED=MASKED)
            for i in tl.static_range(1, _ROUNDS + 1):
                store_row(plan_ptr + i * sequences + sequence_row, nothing, mask, MASKED=MASKED)


@triton.jit(do_not_specialize=["round_number"])
def rnn_scan_round_kernel(
    x_ptr,  # (B, T, D)
    w_ptr,  # (D,), raw rates, STATE
    turn_ptr,  # (D,), STATE, read if PAIRED
    h0_ptr,  # (S, D), contiguous, read if TO_H0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    resets_ptr,  # (B, T), contiguous, a byte per step: not 0 where a sequence is cut; None: nowhere
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), final states
    guess_ptr,  # out: (S, C, D), the states that chunks started from
    ends_ptr,  # out: (2, S, C, D), the states that they ended in, before this round and after it, in turns
    plan_ptr,  # out: (1 + ROUNDS, S, D), blocks of ROWS in a chunk; 1 where an end has changed in this round
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, num_chunks, round_number: tl.int64, dt: tl.float64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, PAIRED: tl.constexpr,
    TO_H0: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Run every chunk whose guess is wrong again, from where the chunk before ended in the last round.

    Chunk 0 is always right. Ends are read of one plane and written to the other: programs of a launch do not wait.
    """
    if PAIRED:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks % num_sequences
    chunk = 1 + pid // (num_blocks * num_sequences)
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=PAIRED)
    entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
    sequence_row = sequence.to(tl.int64) * D + c
    chunk_row = (sequence.to(tl.int64) * num_chunks + chunk) * D + c
    sequences = D * num_sequences
    old_row = ends_ptr + (round_number + 1) % 2 * num_chunks * sequences + chunk_row
    new_row = ends_ptr + round_number % 2 * num_chunks * sequences + chunk_row

    length = tl.max(tl.load(plan_ptr + sequence_row, mask=mask, other=0.0), axis=0).to(tl.int32) * ROWS
    begin = tl.minimum(chunk.to(tl.int64) * length, n).to(tl.int32)
    if begin < n:
        h = load_row(old_row - D, mask, MASKED=MASKED)
        end = load_row(old_row, mask, MASKED=MASKED)
        if tl.max(differ(h, load_row(guess_ptr + chunk_row, mask, MASKED=MASKED)), axis=0) > 0:
            store_row(guess_ptr + chunk_row, h, mask, MASKED=MASKED)
            rows = tl.minimum(length, n - begin)
            top = entry + begin
            dt_state = tl.full((), dt, STATE)
            pull, turn, _rate_row = coefficients(
                w_ptr, turn_ptr, batch, top, 0, 0, 0, c, mask, dt,
                PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT, GATED=False, PAIRED=PAIRED, STATE=STATE, MASKED=MASKED,
            )  # fmt: skip
            h0 = h
            if TO_H0:
                h0 = first_state(h0_ptr, sequence_row, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
            reset_row = None if resets_ptr is None else bytes_at(resets_ptr, batch * T + top)
            start = start_after_cuts(h0, TO_H0=TO_H0)
            h, _ = walk(
                x_ptr + batch * stride_xb + top * stride_xt + c * stride_xd, None, reset_row,
                h_ptr + (batch * T + top) * D + c, h, start, pull, turn, dt_state, rows, 0, stride_xt, 0, d, D, mask,
                NONLINEARITY=NONLINEARITY, GATED=False, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, WARMS_UP=False,
                MASKED=MASKED,
            )  # fmt: skip
            changed = differ(h, end)
            end = h
            if begin + rows == n:
                store_row(last_ptr + sequence_row, h, mask, MASKED=MASKED)
            else:
                flag_row = plan_ptr + round_number * sequences + sequence_row
                tl.store(flag_row, tl.full((BLOCK_D,), 1.0, STATE), mask=mask & (changed > 0))
        store_row(new_row, end, mask, MASKED=MASKED)


@triton.jit
def rnn_scan_fallback_kernel(
    x_ptr,  # (B, T, D)
    w_ptr,  # (D,), raw rates, STATE
    turn_ptr,  # (D,), STATE, read if PAIRED
    h0_ptr,  # (S, D), contiguous, read if TO_H0
    starts_ptr,  # (S,), first rows of packed sequences; None: S = B sequences of T rows
    resets_ptr,  # (B, T), contiguous, a byte per step: not 0 where a sequence is cut; None: nowhere
    h_ptr,  # out: (B, T, D), contiguous
    last_ptr,  # out: (S, D), final states
    guess_ptr,  # (S, C, D), the states that chunks started from
    ends_ptr,  # (S, C, D), the states that they ended in
    plan_ptr,  # (1 + ROUNDS, S, D), blocks of ROWS in a chunk; 1 where an end has changed in a round
    T: tl.int64, D: tl.int64, num_blocks, num_sequences, num_chunks, dt: tl.float64,
    stride_xb: tl.int64, stride_xt: tl.int64, stride_xd,
    NONLINEARITY: tl.constexpr, PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, PAIRED: tl.constexpr,
    TO_H0: tl.constexpr, ALIGNED: tl.constexpr, MASKED: tl.constexpr, STATE: tl.constexpr, BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Where the last round has changed an end: go through the chunks in order, and run those that started wrong."""
    if PAIRED:
        D, stride_xb, stride_xt = in_pairs(D), in_pairs(stride_xb), in_pairs(stride_xt)
    pid = tl.program_id(0)
    sequence = pid // num_blocks
    d = (pid % num_blocks).to(tl.int64) * BLOCK_D + tl.arange(0, BLOCK_D)
    mask = d < D
    c = across_lanes(d, pid, ALIGNED=ALIGNED, COMPLEX=PAIRED)
    sequence_row = sequence.to(tl.int64) * D + c
    flag_row = plan_ptr + _ROUNDS * D * num_sequences + sequence_row
    if tl.max(tl.load(flag_row, mask=mask, other=0.0), axis=0) > 0.0:
        entry, _skipped, n, batch = chunk_rows(starts_ptr, sequence, num_sequences, T, 0, T, 0, T, REVERSE=False)
        length = tl.max(tl.load(plan_ptr + sequence_row, mask=mask, other=0.0), axis=0).to(tl.int32) * ROWS
        dt_state = tl.full((), dt, STATE)
        pull, turn, _rate_row = coefficients(
            w_ptr, turn_ptr, batch, entry, 0, 0, 0, c, mask, dt,
            PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT, GATED=False, PAIRED=PAIRED, STATE=STATE, MASKED=MASKED,
        )  # fmt: skip
        x_row = x_ptr + batch * stride_xb + entry * stride_xt + c * stride_xd
        h_row = h_ptr + (batch * T + entry) * D + c
        chunk_row = sequence.to(tl.int64) * num_chunks * D + c
        chunks = tl.cdiv(n, length)
        h = load_row(ends_ptr + chunk_row, mask, MASKED=MASKED)
        h0 = h
        if TO_H0:
            h0 = first_state(h0_ptr, sequence_row, mask, BLOCK_D=BLOCK_D, STATE=STATE, MASKED=MASKED)
        reset_row = None if resets_ptr is None else bytes_at(resets_ptr, batch * T + entry)
        start = start_after_cuts(h0, TO_H0=TO_H0)
        chunk_row += D
        guess = load_row(guess_ptr + chunk_row, mask, MASKED=MASKED)
        end = load_row(ends_ptr + chunk_row, mask, MASKED=MASKED)
        for k in range(1, chunks):
            x_row += length.to(tl.int64) * stride_xt
            h_row += length.to(tl.int64) * D
            if resets_ptr is not None:
                reset_row += length
            wrong = tl.max(differ(h, guess), axis=0) > 0
            right_end = end
            # Read ahead; the last chunk has none after it, and reads itself once more.
            chunk_row += tl.where(k + 1 < chunks, D, 0)
            guess = load_row(guess_ptr + chunk_row, mask, MASKED=MASKED)
            end = load_row(ends_ptr + chunk_row, mask, MASKED=MASKED)
            if wrong:
                rows = tl.minimum(length, n - k * length)
                h, _ = walk(
                    x_row, None, reset_row, h_row, h, start, pull, turn, dt_state, rows, 0, stride_xt, 0, d, D, mask,
                    NONLINEARITY=NONLINEARITY, GATED=False, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, WARMS_UP=False,
                    MASKED=MASKED,
                )  # fmt: skip
            else:
                h = right_end
        store_row(last_ptr + sequence_row, h, mask, MASKED=MASKED)


def forward(
    x: Any, w: Any, turn: Any, h0: Any, seq_starts: Any, resets: Any, h: Any, last: Any, num_blocks: int,
    chains: ForwardChains, *, dt: float, **options: Any,
) -> None:  # fmt: skip
    """Fill h and last; the options are constants of every kernel. Launches: the chunks, the rounds, the fallback."""
    sequences, chunks = last.shape[0], chains.chunks
    programs = num_blocks * sequences
    guess, *ends = last.new_empty((3, sequences, chunks, last.shape[1]))
    plan = last.new_empty((1 + ROUNDS, *last.shape))
    sizes = x.shape[1], x.shape[2], num_blocks, sequences, chunks
    launch(rnn_scan_chunk_kernel, (programs * chunks,))(
        x, w, turn, h0, seq_starts, resets, h, last, guess, ends[0], plan, *sizes, dt, chains.long_fade, *x.stride(),
        **options,
    )  # fmt: skip
    for number in range(1, ROUNDS + 1):
        launch(rnn_scan_round_kernel, (programs * (chunks - 1),))(
            x, w, turn, h0, seq_starts, resets, h, last, guess, ends[0], plan, *sizes, number, dt, *x.stride(),
            **options,
        )  # fmt: skip
    launch(rnn_scan_fallback_kernel, (programs,))(
        x, w, turn, h0, seq_starts, resets, h, last, guess, ends[ROUNDS % 2], plan, *sizes, dt, *x.stride(), **options
    )
