"""The walk over rows of the nonlinear recurrence, forward and back: what its kernels share; see `rnn_scan.py`.

    z[t] = x[t] + pull * h[t-1] + turn * swap(h[t-1]),   h[t] = h[t-1] + dt * act(z[t]),   pull = -rate

`turn` is unused unless PAIRED. Every kernel runs these functions, so that all of them round alike.

GATED, every row has rates of its own, at `rate_row`, and `pull` is unused. With `reset_row`, a byte per step, the state
before a step whose byte is not 0 is `start`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cofm_triton.kernels.interleaved import swap
from cofm_triton.kernels.nonlinearity import act, act_derivative
from cofm_triton.kernels.parameterization import step_rate
from cofm_triton.kernels.rows import live_row, load_last_rows, load_row, store_row


@triton.jit
def coefficients(
    w_ptr, turn_ptr, batch, top, stride_wb, stride_wt, stride_wd, c, mask, dt,
    PARAMETERIZATION: tl.constexpr, EXACT: tl.constexpr, GATED: tl.constexpr, PAIRED: tl.constexpr,
    STATE: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(pull, turn, rate_row)`. The rate is subtracted from zero: a mere change of sign would move into the loop and be
    paid there once per state. GATED, pull says no more than the dtype of the state; otherwise, rate_row says nothing.
    """
    if GATED:
        rate_row = w_ptr + batch * stride_wb + top * stride_wt + c * stride_wd
        pull = tl.zeros(c.shape, STATE)
    else:
        rate_row = c
        w = load_row(w_ptr + c, mask, MASKED=MASKED)
        pull = 0.0 - step_rate(w, dt, PARAMETERIZATION=PARAMETERIZATION, EXACT=EXACT)
    turn = load_row(turn_ptr + c, mask, MASKED=MASKED) if PAIRED else pull
    return pull, turn, rate_row


@triton.jit
def first_state(states_ptr, row, mask, BLOCK_D: tl.constexpr, STATE: tl.constexpr, MASKED: tl.constexpr):
    """A state of a sequence, 0 where there is none."""
    state = tl.zeros((BLOCK_D,), STATE)
    if states_ptr is not None:
        state = load_row(states_ptr + row, mask, MASKED=MASKED).to(STATE)
    return state


@triton.jit
def bytes_at(resets_ptr, row):
    """Where the byte of a row of (B, T) lies."""
    return resets_ptr.to(tl.pointer_type(tl.int8), bitcast=True) + row


@triton.jit
def start_after_cuts(h0, TO_H0: tl.constexpr):
    """The state before a step where the sequence is cut."""
    return h0 if TO_H0 else tl.zeros(h0.shape, h0.dtype)


@triton.jit
def pulled(x, pull, turn, h, PAIRED: tl.constexpr):
    """z = x + pull * h + turn * swap(h); `pull` is the rate subtracted from zero, `turn` unused unless PAIRED."""
    z = x + pull * h
    if PAIRED:
        z += turn * swap(h)
    return z


@triton.jit
def load_cuts(reset_row, rest, ROWS: tl.constexpr):
    """The bytes of ROWS steps, 0 from `rest` on; nothing without `reset_row`.

    Truth values would take scalar registers, of which gfx942 has few.
    """
    cuts = ()
    if reset_row is not None:
        for j in tl.static_range(ROWS):
            cuts = cuts + (tl.load(reset_row + j, mask=rest > j, other=0),)
    return cuts


@triton.jit
def load_rates(rate_row, stride_wt, d, D, rest, GATED: tl.constexpr, ROWS: tl.constexpr):
    """As `load_last_rows`; nothing unless GATED."""
    rates = ()
    if GATED:
        rates = load_last_rows(rate_row, stride_wt, d, D, rest, ROWS=ROWS)
    return rates


@triton.jit
def pull_at(rates, j: tl.constexpr, pull, GATED: tl.constexpr):
    """What multiplies h[t-1] in row j of a block."""
    if GATED:
        pull = -rates[j].to(pull.dtype)
    return pull


@triton.jit
def before_step(reset_row, cuts, j: tl.constexpr, start, h):
    """h[t-1] of row j of a block: the start, where the sequence is cut there."""
    if reset_row is not None:
        h = tl.where(cuts[j] != 0, start, h)
    return h


@triton.jit
def recompute(
    xs, rates, reset_row, cuts, h, start, pull, turn, dt, ahead_row, stride_xt, mask,
    NONLINEARITY: tl.constexpr, GATED: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr,
    AHEAD: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(hs, slopes, ahead)` of a block of rows that starts from h: h[t-1] and dt * act'(z[t]) of every row.

    AHEAD, the register of a row of x that has been used takes a row of the block at `ahead_row`.
    """
    hs = ()
    slopes = ()
    ahead = ()
    for j in tl.static_range(ROWS):
        h = before_step(reset_row, cuts, j, start, h)
        z = pulled(xs[j].to(STATE), pull_at(rates, j, pull, GATED=GATED), turn, h, PAIRED=PAIRED)
        if AHEAD:
            ahead = ahead + (load_row(ahead_row + j * stride_xt, mask, MASKED=MASKED),)
        u = act(z, NONLINEARITY=NONLINEARITY)
        hs = hs + (h,)
        slopes = slopes + (act_derivative(z, u, dt, NONLINEARITY=NONLINEARITY),)
        h += dt * u
    return hs, slopes, ahead


@triton.jit
def walk(
    x_row, rate_row, reset_row, h_row, h, start, pull, turn, dt, n, warm_up, stride_xt, stride_wt, d, D, mask,
    NONLINEARITY: tl.constexpr, GATED: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr,
    WARMS_UP: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(h, kept)`: the state after n rows from h on, each of which is stored.

    WARMS_UP, the first `warm_up` rows, a multiple of ROWS, are not stored, and `kept` is the state after them.
    """
    blocks = n // ROWS
    warm_up = warm_up // ROWS
    kept = h
    stored = mask
    last_row = x_row + blocks * ROWS * stride_xt
    first = tl.minimum(n, ROWS)
    xs = load_last_rows(x_row, stride_xt, d, D, first, ROWS=ROWS)
    rates = load_rates(rate_row, stride_wt, d, D, first, GATED=GATED, ROWS=ROWS)
    cuts = load_cuts(reset_row, first, ROWS=ROWS)
    for i in range(blocks):
        if WARMS_UP:
            kept = tl.where(i == warm_up, h, kept)
            stored = d < tl.where(i < warm_up, 0, D)
        # The last block has none after it, and reads itself once more.
        x_row += tl.where(i + 1 < blocks, ROWS * stride_xt, 0)
        ahead = ()
        rates_ahead = ()
        cuts_ahead = ()
        if GATED:
            rate_row += tl.where(i + 1 < blocks, ROWS * stride_wt, 0)
        if reset_row is not None:
            reset_row += tl.where(i + 1 < blocks, ROWS, 0)
        for j in tl.static_range(ROWS):
            h = before_step(reset_row, cuts, j, start, h)
            z = pulled(xs[j].to(STATE), pull_at(rates, j, pull, GATED=GATED), turn, h, PAIRED=PAIRED)
            h += dt * act(z, NONLINEARITY=NONLINEARITY)
            # The register of a row that has been used takes the row that lies ROWS further on.
            ahead = ahead + (load_row(x_row + j * stride_xt, mask, MASKED=MASKED),)
            if GATED:
                rates_ahead = rates_ahead + (load_row(rate_row + j * stride_wt, mask, MASKED=MASKED),)
            if reset_row is not None:
                cuts_ahead = cuts_ahead + (tl.load(reset_row + j),)
            store_row(h_row + j * D, h, stored, MASKED=MASKED or WARMS_UP)
        xs = ahead
        rates = rates_ahead
        cuts = cuts_ahead
        h_row += ROWS * D
    if WARMS_UP:
        kept = tl.where(blocks == warm_up, h, kept)
    rest = n % ROWS
    if rest > 0:
        last_xs = load_last_rows(last_row, stride_xt, d, D, rest, ROWS=ROWS - 1)
        if GATED:
            rate_row += tl.where(blocks > 0, ROWS * stride_wt, 0)
        if reset_row is not None:
            reset_row += tl.where(blocks > 0, ROWS, 0)
        last_rates = load_rates(rate_row, stride_wt, d, D, rest, GATED=GATED, ROWS=ROWS - 1)
        last_cuts = load_cuts(reset_row, rest, ROWS=ROWS - 1)
        for j in tl.static_range(ROWS - 1):
            live = live_row(d, D, j, rest)
            h = before_step(reset_row, last_cuts, j, start, h)
            z = pulled(last_xs[j].to(STATE), pull_at(last_rates, j, pull, GATED=GATED), turn, h, PAIRED=PAIRED)
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
def cut_off(byte, mu, own, other, grad_start, SUMMARY: tl.constexpr):
    """What is left of an adjoint and of a chunk's summary before a step, and what has gone to the start."""
    cut = byte != 0
    if SUMMARY:
        own = tl.where(cut, 0.0, own)
        other = tl.where(cut, 0.0, other)
    else:
        grad_start += tl.where(cut, mu, 0.0)
    return tl.where(cut, 0.0, mu), own, other, grad_start


@triton.jit
def walk_back(
    g_row, x_row, rate_row, reset_row, before_row, dx_row, drate_row, h0, start, mu, pull, turn, dt, first, n,
    stride_gt, stride_xt, stride_wt, d, D, mask,
    NONLINEARITY: tl.constexpr, GATED: tl.constexpr, PAIRED: tl.constexpr, STATE: tl.constexpr, ROWS: tl.constexpr,
    SUMMARY: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """`(mu, grad_pull, grad_turn, grad_start)`: the adjoint before n rows from mu after them on, and gradients of the
    coefficients and of the start.

    The rows are the last n % ROWS rows, where the pointers stand, and whole blocks before them, of which the first is
    block `first` of the sequence. Block 0 starts from h0, others from the stored row before them, `before_row`.

    GATED, the gradients of rates are stored at `drate_row`, and `grad_pull` is 0. With `reset_row`, an adjoint that
    arrives where the sequence is cut goes to the start, and no further.

    SUMMARY, nothing is stored and the pointers to gradients are None. The result is `(mu, own, other, 0)`: an adjoint a
    after the rows is `mu + own * a + other * swap(a)` before them, if mu was 0.
    """
    back_turn = 0.0 - turn
    grad_pull = tl.zeros(mu.shape, STATE)
    grad_turn = tl.zeros(mu.shape, STATE)
    grad_start = tl.zeros(mu.shape, STATE)
    own = grad_pull + 1.0
    other = grad_turn
    block = first + n // ROWS
    rest = n % ROWS
    if rest > 0:
        last_xs = load_last_rows(x_row, stride_xt, d, D, rest, ROWS=ROWS - 1)
        last_gs = load_last_rows(g_row, stride_gt, d, D, rest, ROWS=ROWS - 1)
        last_rates = load_rates(rate_row, stride_wt, d, D, rest, GATED=GATED, ROWS=ROWS - 1)
        last_cuts = load_cuts(reset_row, rest, ROWS=ROWS - 1)
        before = tl.load(before_row, mask=live_row(d, D, 0, block), other=0.0).to(STATE)
        hs, slopes, _ = recompute(
            last_xs, last_rates, reset_row, last_cuts, tl.where(block > 0, before, h0), start, pull, turn, dt, x_row,
            stride_xt, mask, NONLINEARITY=NONLINEARITY, GATED=GATED, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS - 1,
            AHEAD=False, MASKED=MASKED,
        )  # fmt: skip
        for j in tl.static_range(ROWS - 2, -1, -1):
            live = live_row(d, D, j, rest)
            pull_j = pull_at(last_rates, j, pull, GATED=GATED)
            adjoint = last_gs[j].to(STATE) + mu
            grad_x = slopes[j] * adjoint
            mu = tl.where(live, pulled(adjoint, pull_j, back_turn, grad_x, PAIRED=PAIRED), mu)
            if SUMMARY:
                slope = tl.where(live, slopes[j], 0.0)
                own, other = passed_on(own, other, slope, pull_j, back_turn, PAIRED=PAIRED)
            else:
                product = grad_x * hs[j]
                if GATED:
                    store_row(drate_row + j * D, -product, live, MASKED=True)
                else:
                    grad_pull += tl.where(live, product, 0.0)
                if PAIRED:
                    grad_turn += tl.where(live, grad_x * swap(hs[j]), 0.0)
                store_row(dx_row + j * D, grad_x, live, MASKED=True)
            if reset_row is not None:
                mu, own, other, grad_start = cut_off(last_cuts[j], mu, own, other, grad_start, SUMMARY=SUMMARY)

    full = tl.where(block > first, ROWS, 0)
    g_row -= full * stride_gt
    x_row -= full * stride_xt
    before_row -= full * D
    if GATED:
        rate_row -= full * stride_wt
    if reset_row is not None:
        reset_row -= full
    xs = load_last_rows(x_row, stride_xt, d, D, full, ROWS=ROWS)
    gs = load_last_rows(g_row, stride_gt, d, D, full, ROWS=ROWS)
    rates = load_rates(rate_row, stride_wt, d, D, full, GATED=GATED, ROWS=ROWS)
    cuts = load_cuts(reset_row, full, ROWS=ROWS)
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
        if GATED:
            rate_row -= back * stride_wt
        if reset_row is not None:
            reset_row -= back
        if not SUMMARY:
            dx_row -= ROWS * D
            if GATED:
                drate_row -= ROWS * D
        hs, slopes, xs = recompute(
            xs, rates, reset_row, cuts, h, start, pull, turn, dt, x_row, stride_xt, mask,
            NONLINEARITY=NONLINEARITY, GATED=GATED, PAIRED=PAIRED, STATE=STATE, ROWS=ROWS, AHEAD=True, MASKED=MASKED,
        )  # fmt: skip
        gs_ahead = ()
        rates_ahead = ()
        cuts_ahead = ()
        for j in tl.static_range(ROWS - 1, -1, -1):
            pull_j = pull_at(rates, j, pull, GATED=GATED)
            adjoint = gs[j].to(STATE) + mu
            grad_x = slopes[j] * adjoint
            gs_ahead = (load_row(g_row + j * stride_gt, mask, MASKED=MASKED),) + gs_ahead
            mu = pulled(adjoint, pull_j, back_turn, grad_x, PAIRED=PAIRED)
            if SUMMARY:
                own, other = passed_on(own, other, slopes[j], pull_j, back_turn, PAIRED=PAIRED)
            else:
                product = grad_x * hs[j]
                if GATED:
                    store_row(drate_row + j * D, -product, mask, MASKED=MASKED)
                else:
                    grad_pull += product
                if PAIRED:
                    grad_turn += grad_x * swap(hs[j])
                store_row(dx_row + j * D, grad_x, mask, MASKED=MASKED)
            if GATED:
                rates_ahead = (load_row(rate_row + j * stride_wt, mask, MASKED=MASKED),) + rates_ahead
            if reset_row is not None:
                mu, own, other, grad_start = cut_off(cuts[j], mu, own, other, grad_start, SUMMARY=SUMMARY)
                cuts_ahead = (tl.load(reset_row + j),) + cuts_ahead
        gs = gs_ahead
        rates = rates_ahead
        cuts = cuts_ahead
    if SUMMARY:
        result = mu, own, other, grad_start
    else:
        result = mu, grad_pull, grad_turn, grad_start
    return result
