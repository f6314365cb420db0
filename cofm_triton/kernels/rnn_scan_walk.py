"""The walk over rows of the nonlinear recurrence, forward and back: what its kernels share; see `rnn_scan.py`.

    z[t] = x[t] + pull * h[t-1] + turn * swap(h[t-1]),   h[t] = h[t-1] + dt * act(z[t]),   pull = -rate

`turn` is unused unless PAIRED. Every kernel runs these functions, so that all of them round alike.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import swap
from cofm_triton.kernels.nonlinearity import act, act_derivative
from cofm_triton.kernels.rows import live_row, load_last_rows, load_row, store_row


@triton.jit
def pulled(x, pull, turn, h, PAIRED: tl.constexpr):
    """z = x + pull * h + turn * swap(h); `pull` is the rate subtracted from zero, `turn` unused unless PAIRED."""
    z = x + pull * h
    if PAIRED:
        z += turn * swap(h)
    return z


@triton.jit
def recompute(
    xs, h, pull, turn, dt, ahead_row, stride_xt, mask,
    NONLINEARITY: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr, AHEAD: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """`(hs, slopes, ahead)` of a block of rows that starts from h: h[t-1] and dt * act'(z[t]) of every row.

    AHEAD, the register of a row of x that has been used takes a row of the block at `ahead_row`.
    """
    hs = ()
    slopes = ()
    ahead = ()
    for j in tl.static_range(ROWS):
        z = pulled(xs[j].to(STATE), pull, turn, h, PAIRED=PAIRED)
        if AHEAD:
            ahead = ahead + (load_row(ahead_row + j * stride_xt, mask, MASKED=MASKED),)
        u = act(z, NONLINEARITY=NONLINEARITY)
        hs = hs + (h,)
        slopes = slopes + (act_derivative(z, u, dt, NONLINEARITY=NONLINEARITY),)
        h += dt * u
    return hs, slopes, ahead


@triton.jit
def walk(
    x_row, h_row, h, pull, turn, dt, n, warm_up, stride_xt, d, D, mask,
    NONLINEARITY: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr, WARMS_UP: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """`(h, kept)`: the state after n rows from h on, each of which is stored.

    WARMS_UP, the first `warm_up` rows, a multiple of ROWS, are not stored, and `kept` is the state after them.
    """
    blocks = n // ROWS
    warm_up = warm_up // ROWS
    kept = h
    stored = mask
    last_row = x_row + blocks * ROWS * stride_xt
    xs = load_last_rows(x_row, stride_xt, d, D, tl.minimum(n, ROWS), ROWS=ROWS)
    for i in range(blocks):
        if WARMS_UP:
            kept = tl.where(i == warm_up, h, kept)
            stored = d < tl.where(i < warm_up, 0, D)
        # The last block has none after it, and reads itself once more.
        x_row += tl.where(i + 1 < blocks, ROWS * stride_xt, 0)
        ahead = ()
        for j in tl.static_range(ROWS):
            h += dt * act(pulled(xs[j].to(STATE), pull, turn, h, PAIRED=PAIRED), NONLINEARITY=NONLINEARITY)
            # The register of a row that has been used takes the row that lies ROWS further on.
            ahead = ahead + (load_row(x_row + j * stride_xt, mask, MASKED=MASKED),)
            store_row(h_row + j * D, h, stored, MASKED=MASKED or WARMS_UP)
        xs = ahead
        h_row += ROWS * D
    if WARMS_UP:
        kept = tl.where(blocks == warm_up, h, kept)
    rest = n % ROWS
    if rest > 0:
        last_xs = load_last_rows(last_row, stride_xt, d, D, rest, ROWS=ROWS - 1)
        for j in tl.static_range(ROWS - 1):
            live = live_row(d, D, j, rest)
            z = pulled(last_xs[j].to(STATE), pull, turn, h, PAIRED=PAIRED)
            h = tl.where(live, h + dt * act(z, NONLINEARITY=NONLINEARITY), h)
            store_row(h_row + j * D, h, live, MASKED=True)
    return h, kept


@triton.jit
def passed_on(own, other, slope, pull, back_turn, PAIRED: tl.constexpr):
    """`(own, other)` one step further back, where `mu <- mu + pull * dx + back_turn * swap(dx)`, dx = slope * mu.

    A channel's `other` is the factor of its partner's adjoint.
    """
    own_x = slope * own
    if PAIRED:
        other_x = slope * other
        own += pull * own_x + back_turn * swap(other_x)
        other += pull * other_x + back_turn * swap(own_x)
    else:
        own += pull * own_x
    return own, other


@triton.jit
def walk_back(
    g_row, x_row, before_row, dx_row, h0, mu, pull, turn, dt, first, n, stride_gt, stride_xt, d, D, mask,
    NONLINEARITY: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr, SUMMARY: tl.constexpr,
    MASKED: tl.constexpr,
):  # fmt: skip
    """`(mu, grad_pull, grad_turn)`: the adjoint before n rows from mu after them on, and the coefficients' gradients.

    The rows are the last n % ROWS rows, where the pointers stand, and whole blocks before them, of which the first is
    block `first` of the sequence. Block 0 starts from h0, others from the stored row before them, `before_row`.

    SUMMARY, nothing is stored and `dx_row` is None. The result is `(mu, own, other)`: an adjoint a after the rows is
    `mu + own * a + other * swap(a)` before them, if mu was 0.
    """
    back_turn = 0.0 - turn
    grad_pull = tl.zeros(mu.shape, STATE)
    grad_turn = tl.zeros(mu.shape, STATE)
    own = grad_pull + 1.0
    other = grad_turn
    block = first + n // ROWS
    rest = n % ROWS
    if rest > 0:
        last_xs = load_last_rows(x_row, stride_xt, d, D, rest, ROWS=ROWS - 1)
        last_gs = load_last_rows(g_row, stride_gt, d, D, rest, ROWS=ROWS - 1)
        before = tl.load(before_row, mask=live_row(d, D, 0, block), other=0.0).to(STATE)
        hs, slopes, _ = recompute(
            last_xs, tl.where(block > 0, before, h0), pull, turn, dt, x_row, stride_xt, mask,
            NONLINEARITY=NONLINEARITY, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS - 1, AHEAD=False, MASKED=MASKED,
        )  # fmt: skip
        for j in tl.static_range(ROWS - 2, -1, -1):
            live = live_row(d, D, j, rest)
            adjoint = last_gs[j].to(STATE) + mu
            grad_x = slopes[j] * adjoint
            mu = tl.where(live, pulled(adjoint, pull, back_turn, grad_x, PAIRED=PAIRED), mu)
            if SUMMARY:
                slope = tl.where(live, slopes[j], 0.0)
                own, other = passed_on(own, other, slope, pull, back_turn, PAIRED=PAIRED)
            else:
                grad_pull += tl.where(live, grad_x * hs[j], 0.0)
                if PAIRED:
                    grad_turn += tl.where(live, grad_x * swap(hs[j]), 0.0)
                store_row(dx_row + j * D, grad_x, live, MASKED=True)

    full = tl.where(block > first, ROWS, 0)
    g_row -= full * stride_gt
    x_row -= full * stride_xt
    before_row -= full * D
    xs = load_last_rows(x_row, stride_xt, d, D, full, ROWS=ROWS)
    gs = load_last_rows(g_row, stride_gt, d, D, full, ROWS=ROWS)
    before = tl.load(before_row, mask=live_row(d, D, 1, block), other=0.0)
    for _ in range(n // ROWS):
        block -= 1
        h = tl.where(block > 0, before.to(STATE), h0)
        # The first block has none before it, and reads itself once more.
        back = tl.where(block > first, ROWS, 0)
        g_row -= back * stride_gt
        x_row -= back * stride_xt
        before_row -= back * D
        before = tl.load(before_row, mask=live_row(d, D, 1, block), other=0.0)
        if not SUMMARY:
            dx_row -= ROWS * D
        hs, slopes, xs = recompute(
            xs, h, pull, turn, dt, x_row, stride_xt, mask,
            NONLINEARITY=NONLINEARITY, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, AHEAD=True, MASKED=MASKED,
        )  # fmt: skip
        gs_ahead = ()
        for j in tl.static_range(ROWS - 1, -1, -1):
            adjoint = gs[j].to(STATE) + mu
            grad_x = slopes[j] * adjoint
            gs_ahead = (load_row(g_row + j * stride_gt, mask, MASKED=MASKED),) + gs_ahead
            mu = pulled(adjoint, pull, back_turn, grad_x, PAIRED=PAIRED)
            if SUMMARY:
                own, other = passed_on(own, other, slopes[j], pull, back_turn, PAIRED=PAIRED)
            else:
                grad_pull += grad_x * hs[j]
                if PAIRED:
                    grad_turn += grad_x * swap(hs[j])
                store_row(dx_row + j * D, grad_x, mask, MASKED=MASKED)
        gs = gs_ahead
    if SUMMARY:
        result = mu, own, other
    else:
        result = mu, grad_pull, grad_turn
    return result
