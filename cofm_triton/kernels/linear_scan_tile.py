"""Tiles of a linear scan: rows of one sequence that a program loads at once, in segments that are walked side by side.

Indices: s segment, j row of a segment, d channel. A row of a tile is a (SEGMENTS, BLOCK_D) tensor, one row of each
segment; lanes and warps lie over both axes. So segments of time fill a program where channels are few.

A segment's end E[s], its state from a zero start, and A[s], the product of its decays, are found by a walk over its
rows, in registers. Ends are exchanged once per tile, which gives every segment the state before it:

    H[s] = A[s] * H[s-1] + E[s]

Then the rows, still in registers, are walked again from there. With one segment nothing is exchanged.

Resets (B, T), CUT, make a step go on from another state, `anew`, in place of the one before it: A of what has a reset
is 0. They are read as a tile of one byte a step and kept as the bits of one word per segment.

Products of many decays leave the range of floating point. Two rules keep H what the walk over all steps would give:

- a zero state stays zero, even if A is infinite: H = E wherever H[s-1] = 0;
- a product that underflows keeps the smallest size above 0: an infinite state stays infinite, and only a decay of 0
  makes it NaN.

Complex products follow neither rule. CUT has a third one: A = 0 forgets, H = E, whatever H[s-1] and other products are.
Source: G. E. Blelloch, Prefix sums and their applications (1990): the scan over the sums of blocks.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import conjugate, multiply, multiply_conj, one, parts


@triton.jit
def segment_rows(segment, rest, SEGMENTS: tl.constexpr):
    """`(first, count)` of the last tile: the row that each segment begins on, and its rows; `rest` rows in all."""
    length = tl.cdiv(rest, SEGMENTS)
    first = segment * length
    return first, tl.minimum(tl.maximum(rest - first, 0), length)


@triton.jit
def load_tile(ptr, step, mask, limit, ROWS: tl.constexpr, LAST: tl.constexpr, MASKED: tl.constexpr):
    """The ROWS rows at `ptr`, `ptr + step`, ...: a tuple. LAST, row j is 0 where `limit` <= j."""
    rows = ()
    for j in tl.static_range(ROWS):
        if LAST:
            row = tl.load(ptr + j * step, mask=limit > j, other=0.0)
        elif MASKED:
            row = tl.load(ptr + j * step, mask=mask, other=0.0)
        else:
            row = tl.load(ptr + j * step)
        rows = rows + (row,)
    return rows


@triton.jit
def load_gates(
    ptr, step, mask, limit, count, ROWS: tl.constexpr, LAST: tl.constexpr, MASKED: tl.constexpr,
    SHARED: tl.constexpr, COMPLEX: tl.constexpr,
):  # fmt: skip
    """As `load_tile`; SHARED, a row is one number per segment, the gate of all channels, of COMPLEX numbers both parts.

    `count` is the number of rows of each segment.
    """
    if SHARED and COMPLEX:
        real = load_tile(ptr, step, mask, count, ROWS=ROWS, LAST=LAST, MASKED=False)
        gates = (real, load_tile(ptr + 1, step, mask, count, ROWS=ROWS, LAST=LAST, MASKED=False))
    elif SHARED:
        gates = load_tile(ptr, step, mask, count, ROWS=ROWS, LAST=LAST, MASKED=False)
    else:
        gates = load_tile(ptr, step, mask, limit, ROWS=ROWS, LAST=LAST, MASKED=MASKED)
    return gates


@triton.jit
def load_resets(ptr, count, STEP: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, LAST: tl.constexpr):
    """The resets at `ptr`, `ptr + STEP`, ... of ROWS steps of each segment, a tuple of (SEGMENTS, WIDTH); LAST, of
    `count` steps.

    A segment has as many lanes as resets of a part, the lanes of its rows. Otherwise bits would move between lanes in
    every step.
    """
    tl.static_assert(ROWS <= 32)
    resets = ()
    for k in tl.static_range(0, ROWS, WIDTH):
        j = k + tl.arange(0, WIDTH)[None, :]
        resets = resets + (tl.load(ptr + j * STEP, mask=j < (count if LAST else ROWS), other=0),)
    return resets


@triton.jit
def reset_bits(resets, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Bit j of a word per segment, (SEGMENTS, 1): the reset of step j."""
    bits = tl.sum(resets[0].to(tl.int32) << tl.arange(0, WIDTH)[None, :], 1, keep_dims=True)
    for k in tl.static_range(WIDTH, ROWS, WIDTH):
        bits |= tl.sum(resets[k // WIDTH].to(tl.int32) << k + tl.arange(0, WIDTH)[None, :], 1, keep_dims=True)
    return bits


@triton.jit
def is_reset(bits, j: tl.constexpr):
    """Whether step j of each segment is a reset."""
    return (bits >> j) & 1 != 0


@triton.jit
def gate_row(gates, j: tl.constexpr, row, SHARED: tl.constexpr, COMPLEX: tl.constexpr):
    """Loaded gates j for every channel of a row, in the row's dtype."""
    if SHARED and COMPLEX:
        half: tl.constexpr = (row.shape[0], row.shape[1] // 2)
        real = tl.broadcast_to(gates[0][j].to(row.dtype), half)
        gate = tl.interleave(real, tl.broadcast_to(gates[1][j].to(row.dtype), half))
    elif SHARED:
        gate = tl.broadcast_to(gates[j].to(row.dtype), row.shape)
    else:
        gate = gates[j].to(row.dtype)
    return gate


@triton.jit
def store_tile_row(ptr, value, mask, limit, j: tl.constexpr, LAST: tl.constexpr, MASKED: tl.constexpr):
    """Write row j of a tile, rounded to the dtype of the tensor."""
    value = value.to(ptr.dtype.element_ty)
    if LAST:
        tl.store(ptr, value, mask=limit > j)
    elif MASKED:
        tl.store(ptr, value, mask=mask)
    else:
        tl.store(ptr, value)


@triton.jit
def smallest_like(row):
    """The smallest size above 0, with the row's signs, also of zeros."""
    if row.dtype == tl.float64:
        bits = row.to(tl.int64, bitcast=True)
    else:
        bits = row.to(tl.int32, bitcast=True)
    smallest = tl.full(row.shape, 1, bits.dtype).to(row.dtype, bitcast=True)
    return tl.where(bits < 0, -smallest, smallest)


@triton.jit
def where_zero(decay, value, other, COMPLEX: tl.constexpr):
    """`value` where the decay is 0, elsewhere `other`."""
    if COMPLEX:
        d, v, o = parts(decay), parts(value), parts(other)
        zero = (d[0] == 0) & (d[1] == 0)
        result = tl.interleave(tl.where(zero, v[0], o[0]), tl.where(zero, v[1], o[1]))
    else:
        result = tl.where(decay == 0, value, other)
    return result


@triton.jit
def next_product(product, decay, COMPLEX: tl.constexpr, CUT: tl.constexpr = False):
    """`product * decay`, which never underflows to 0."""
    result = multiply(product, decay, COMPLEX=COMPLEX)
    if not COMPLEX:
        result = tl.where((result == 0) & (decay != 0), tl.where(decay < 0, -product, product), result)
    if CUT:
        result = where_zero(decay, decay, result, COMPLEX=COMPLEX)
    return result


@triton.jit
def power(decay, exponent, COMPLEX: tl.constexpr):
    """`decay ** exponent`, squared in float64: A of that many steps with one decay per channel."""
    base = decay.to(tl.float64)
    result = one(decay.shape, DTYPE=tl.float64, COMPLEX=COMPLEX)
    while exponent > 0:
        result = tl.where(exponent % 2 == 1, multiply(result, base, COMPLEX=COMPLEX), result)
        base = multiply(base, base, COMPLEX=COMPLEX)
        exponent = exponent // 2
    result = result.to(decay.dtype)
    if not COMPLEX:
        result = tl.where((result == 0) & (decay != 0), smallest_like(result), result)
    return result


@triton.jit
def next_state(state, decay, x, COMPLEX: tl.constexpr, CUT: tl.constexpr = False):
    """`decay * state + x` of many steps, whose A and E are decay and x."""
    after = multiply(decay, state, COMPLEX=COMPLEX) + x
    if not COMPLEX:
        after = tl.where(state == 0, x, after)
    if CUT:
        after = where_zero(decay, x, after, COMPLEX=COMPLEX)
    return after


@triton.jit
def walk_segments(
    decay, xs, gates, bits, anew, limit, like,
    LAST: tl.constexpr, ROWS: tl.constexpr, GATED: tl.constexpr, SHARED: tl.constexpr, CUT: tl.constexpr,
    ADJOINT: tl.constexpr, COMPLEX: tl.constexpr,
):  # fmt: skip
    """`(E, A)` of every segment, rows `like` a row: `decay * h + x` along its rows from 0, or, ADJOINT,
    `conj(decay) * (x + mu)`, where A is the product of conjugate decays.

    CUT, h of the steps in `bits` is `anew`; ADJOINT, nothing arrives before them.
    """
    end = tl.zeros(like.shape, like.dtype)
    product = one(like.shape, DTYPE=like.dtype, COMPLEX=COMPLEX)
    least = product  # of the sizes of its decays
    for j in tl.static_range(ROWS):
        if GATED:
            decay = gate_row(gates, j, like, SHARED=SHARED, COMPLEX=COMPLEX)
        x = xs[j].to(like.dtype)
        if CUT and not ADJOINT:
            end = tl.where(is_reset(bits, j), anew, end)
        if ADJOINT:
            after = multiply_conj(decay, x + end, COMPLEX=COMPLEX)
        else:
            after = multiply(decay, end, COMPLEX=COMPLEX) + x
        longer = multiply(product, decay, COMPLEX=COMPLEX)
        smaller = tl.minimum(least, tl.abs(decay))
        if CUT and ADJOINT:
            after = tl.where(is_reset(bits, j), 0.0, after)
        if LAST:
            after = tl.where(limit > j, after, end)
            longer = tl.where(limit > j, longer, product)
            smaller = tl.where(limit > j, smaller, least)
        end = after
        product = longer
        least = smaller
    if not COMPLEX:
        product = tl.where((product == 0) & (least > 0), smallest_like(product), product)
    if CUT:
        product = tl.where(bits != 0, 0.0, product)
    return end, conjugate(product, COMPLEX=COMPLEX) if ADJOINT else product


@triton.jit
def _join(a, e, a_but, e_but, b, f, b_but, f_but):
    """A and E of two neighbouring ranges of segments together, and of all of them but the last."""
    return (
        next_product(a, b, COMPLEX=False),
        next_state(e, b, f, COMPLEX=False),
        next_product(a, b_but, COMPLEX=False),
        next_state(e, b_but, f_but, COMPLEX=False),
    )


@triton.jit
def _join_complex(
    a_re, a_im, e_re, e_im, c_re, c_im, g_re, g_im, b_re, b_im, f_re, f_im, d_re, d_im, h_re, h_im
):  # fmt: skip
    """As `_join`, of real and imaginary parts."""
    return (
        a_re * b_re - a_im * b_im,
        a_re * b_im + a_im * b_re,
        b_re * e_re - b_im * e_im + f_re,
        b_re * e_im + b_im * e_re + f_im,
        a_re * d_re - a_im * d_im,
        a_re * d_im + a_im * d_re,
        d_re * e_re - d_im * e_im + h_re,
        d_re * e_im + d_im * e_re + h_im,
    )


@triton.jit
def _join_cut(a, e, a_but, e_but, b, f, b_but, f_but):
    """As `_join`, where a product that is 0 forgets."""
    return (
        next_product(a, b, COMPLEX=False, CUT=True),
        next_state(e, b, f, COMPLEX=False, CUT=True),
        next_product(a, b_but, COMPLEX=False, CUT=True),
        next_state(e, b_but, f_but, COMPLEX=False, CUT=True),
    )


@triton.jit
def _join_complex_cut(
    a_re, a_im, e_re, e_im, c_re, c_im, g_re, g_im, b_re, b_im, f_re, f_im, d_re, d_im, h_re, h_im
):  # fmt: skip
    """As `_join_cut`, of real and imaginary parts."""
    b, d = (b_re == 0) & (b_im == 0), (d_re == 0) & (d_im == 0)
    return (
        tl.where(b, b_re, a_re * b_re - a_im * b_im),
        tl.where(b, b_im, a_re * b_im + a_im * b_re),
        tl.where(b, f_re, b_re * e_re - b_im * e_im + f_re),
        tl.where(b, f_im, b_re * e_im + b_im * e_re + f_im),
        tl.where(d, d_re, a_re * d_re - a_im * d_im),
        tl.where(d, d_im, a_re * d_im + a_im * d_re),
        tl.where(d, h_re, d_re * e_re - d_im * e_im + h_re),
        tl.where(d, h_im, d_re * e_im + d_im * e_re + h_im),
    )


@triton.jit
def exchange(state, ends, products, segment, COMPLEX: tl.constexpr, CUT: tl.constexpr):
    """`(before, after, product)`: the state before each segment, that after all of them, and A of all of them.

    `state` is that before the first one, the same in all segments.
    """
    ones = one(ends.shape, DTYPE=ends.dtype, COMPLEX=COMPLEX)
    if COMPLEX:
        a, e, o = parts(products), parts(ends), parts(ones)
        zeros = tl.zeros(o[0].shape, ends.dtype)
        a_re, a_im, e_re, e_im, c_re, c_im, g_re, g_im = tl.associative_scan(
            (a[0], a[1], e[0], e[1], o[0], o[1], zeros, zeros), 0, _join_complex_cut if CUT else _join_complex
        )
        products, ends = tl.interleave(a_re, a_im), tl.interleave(e_re, e_im)
        products_before, ends_before = tl.interleave(c_re, c_im), tl.interleave(g_re, g_im)
    else:
        products, ends, products_before, ends_before = tl.associative_scan(
            (products, ends, ones, tl.zeros(ends.shape, ends.dtype)), 0, _join_cut if CUT else _join
        )
    before = next_state(state, products_before, ends_before, COMPLEX=COMPLEX, CUT=CUT)
    after = next_state(state, products, ends, COMPLEX=COMPLEX, CUT=CUT)
    return before, last_segment(after, segment), last_segment(products, segment)


@triton.jit
def last_segment(row, segment):
    """The last segment's part of a row, in all segments."""
    last = tl.sum(tl.where(segment == row.shape[0] - 1, row, 0.0), 0, keep_dims=True)
    return tl.broadcast_to(last, row.shape)


@triton.jit
def fold_summaries(
    ends_row, products_row, step, decay, chunk_length, mask, segment, count,
    GATED: tl.constexpr, CUT: tl.constexpr, COMPLEX: tl.constexpr, MASKED: tl.constexpr, FOLD: tl.constexpr,
):  # fmt: skip
    """H after `count` <= FOLD * SEGMENTS chunks whose E lie at `ends_row`, `ends_row + step`, ...: one tile of them.

    GATED or CUT, A lies at `products_row` in the same way, otherwise it is that of `chunk_length` steps. Every program
    that needs them adds them up in the same order.
    """
    SEGMENTS: tl.constexpr = decay.shape[0]
    first, limit = segment_rows(segment, count, SEGMENTS=SEGMENTS)
    if MASKED:
        limit = tl.where(mask, limit, 0)
    skipped = first.to(tl.int64) * step
    ends = load_tile(ends_row + skipped, step, mask, limit, ROWS=FOLD, LAST=True, MASKED=MASKED)
    products = ()
    if GATED or CUT:
        products = load_tile(products_row + skipped, step, mask, limit, ROWS=FOLD, LAST=True, MASKED=MASKED)
    else:
        decay = power(decay, chunk_length, COMPLEX=COMPLEX)
    start = tl.zeros(decay.shape, decay.dtype)
    end = start
    product = one(decay.shape, DTYPE=decay.dtype, COMPLEX=COMPLEX)
    for j in tl.static_range(FOLD):
        if GATED or CUT:
            decay = products[j].to(decay.dtype)
        end = tl.where(limit > j, next_state(end, decay, ends[j], COMPLEX=COMPLEX, CUT=CUT), end)
        product = tl.where(limit > j, next_product(product, decay, COMPLEX=COMPLEX, CUT=CUT), product)
    return exchange(start, end, product, segment, COMPLEX=COMPLEX, CUT=CUT)[1]
